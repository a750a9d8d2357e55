"""Training of R̂ on a model's own samples, which a classifier labelled."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.checks import argument, check_number, check_whole_number
from ifguide.classifiers.base import PROBABILITIES_FILE, TOXICITY, ClassifierSettings
from ifguide.methods.nado.model import GuidanceHead, new_head
from ifguide.methods.nado.samples import LabelledSamples, guidance_loss
from ifguide.methods.samples import SAMPLES_FILE, Sampling, load_samples
from ifguide.training.auxiliary import TrainedAuxiliary
from ifguide.training.context import TrainingContext
from ifguide.training.data import hold_out
from ifguide.training.fit import train_on_examples
from ifguide.training.module import OptimizedModule
from ifguide.training.optimization import Optimization
from ifguide.workspace import open_archive


class GuidanceModule(OptimizedModule):
    """Trains a head on batches of `LabelledSamples`.

    Args:
        head: what is trained.
        language_model: whose hidden states it reads; it is not trained, and in no checkpoint.
        optimization, steps, seed: as in `OptimizedModule`.
        consistency: λ.
    """

    def __init__(
        self,
        head: GuidanceHead,
        language_model: PreTrainedModel,
        optimization: Optimization,
        *,
        steps: int,
        seed: int,
        consistency: float,
    ) -> None:
        super().__init__(head, optimization, steps=steps, seed=seed)
        self._reads, self._consistency = [language_model.requires_grad_(False).eval()], consistency

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        model = self._reads[0].to(next(self.model.parameters()))
        return guidance_loss(model, self.model, batch, consistency=self._consistency)


@dataclass(frozen=True, kw_only=True)
class GuidanceTraining(TrainedAuxiliary):
    """How R̂ is trained: cross-entropy on every prefix of the samples + λ · inconsistency (NADO; Meng et al., 2022).

    Args:
        optim, validation, seed: as in `TrainedAuxiliary`; `optim` counts samples where it speaks of blocks, and
            `validation` is a share of the prompts.
        sampling: how the model is asked for samples; R is defined by what it writes with `top_p=1`.
        classifier: who labels them; never the evaluator.
        threshold: C is whether the toxicity is below it; None: C is 1 − toxicity.
        consistency: λ, weight of the forward consistency.
        width: units between the hidden states and R̂; 0: a linear head.
        relative: R̂ is relative to the best next token's (DiNADO), which learns a rare label better.

    Raises:
        ValueError: an argument out of range.
    """

    setting: ClassVar[str] = "guidance"
    continues: ClassVar[str] = "model"

    sampling: Sampling
    classifier: ClassifierSettings
    threshold: float | None = None
    consistency: float = 1.0
    width: int = 0
    relative: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("consistency", self.consistency, least=0)
        check_whole_number("width", self.width, least=0)
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}: a toxicity between 0 and 1, or null for labels in between")
        if self.optim.epochs == 0:
            raise ValueError("optim.epochs=0: R̂ would be the same for every token; train it")

    def check(self, prompts: int) -> None:
        """Raise ValueError where samples of so many prompts are too few to learn from."""
        learned, _ = hold_out(prompts, self.validation, self.seed)
        with argument("optim"):
            self.optim.steps(len(learned) * self.sampling.samples, "samples")

    def labels(self, toxicity: NDArray[np.float64]) -> NDArray[np.float64]:
        """C of texts, from what the classifier made of them."""
        return 1 - toxicity if self.threshold is None else (toxicity < self.threshold).astype(np.float64)

    def read(self, samples: Path, judged: Path, end_of_text: int) -> LabelledSamples:
        """What was written and judged, labelled.

        Args:
            samples: folder of what the model wrote.
            judged: folder of what the classifier makes of it.
            end_of_text: token that ends a text.
        """
        prompts, continuations_PSN = load_samples(samples / SAMPLES_FILE)
        probabilities_PS = open_archive(judged / PROBABILITIES_FILE)[TOXICITY]
        return LabelledSamples(prompts, continuations_PSN, self.labels(probabilities_PS), end_of_text)

    def new(self, model: PreTrainedModel, samples: LabelledSamples) -> GuidanceHead:
        """A head that knows how many samples have the label, and nothing else."""
        return new_head(
            model, width=self.width, relative=self.relative, base_rate=float(samples.labels_PS.mean()), seed=self.seed
        )

    def train(
        self, head: GuidanceHead, model: PreTrainedModel, samples: LabelledSamples, context: TrainingContext
    ) -> dict[str, Any]:
        """Train a head in place; the caller saves it.

        Args:
            head: a new one, or one that is continued.
            model: whose hidden states it reads.
            samples: what it learns from.
            context: where it is computed, and keeps its checkpoints.

        Returns:
            Facts: samples, steps, losses, and `base_rate`, the mean of C.
        """
        learned, held = (
            samples.of_prompts(rows) for rows in hold_out(len(samples.prompts), self.validation, self.seed)
        )
        facts = train_on_examples(
            lambda steps: GuidanceModule(
                head, model, self.optim, steps=steps, seed=self.seed, consistency=self.consistency
            ),
            self.optim,
            context,
            examples=learned,
            validation=held,
            seed=self.seed,
        )
        return {"samples": len(learned), "base_rate": float(samples.labels_PS.mean()), **facts}
