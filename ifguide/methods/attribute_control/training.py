"""Attribute-controlled fine-tuning: its settings, one round of it, and what a step costs."""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.checks import argument, check_number, check_seed, check_whole_number
from ifguide.corpus.blocks import Corpus
from ifguide.methods.attribute_control.examples import ControlledBlocks, DocumentMask
from ifguide.methods.attribute_control.module import ControlledModule
from ifguide.methods.nado import GuidanceHead, GuidanceTraining, LabelledSamples
from ifguide.training.context import TrainingContext
from ifguide.training.data import BlockDataset, ExampleDataModule
from ifguide.training.fit import fit
from ifguide.training.optimization import Optimization

BETWEEN_ROUNDS = 10_007  # of the seeds of their data orders
TIMED = 4  # steps of either kind, the first of which only warms up


@dataclass(frozen=True, kw_only=True)
class AttributeControl:
    """Fine-tuning on the corpus by ℓ + λ·KL(q* ‖ p_θ), q* ∝ p·R̂, in rounds that train R̂ anew for the model as it is.

    Sequential: the model of the round before is sampled, R̂ is trained on its samples, then the model with R̂. Parallel:
    a round trains the model with the R̂ of the round before, and at the same time R̂ on the samples of the model of two
    rounds before, which are there when the round begins; the first two rounds have those of the model that training
    started from.

    Args:
        optim: how the model is optimised, in each round.
        guidance: how R̂ is trained; in the parallel scheme it has a step with each of the model's, on its own batch
            size rounded up to whole samples a block.
        weight: λ; 0 is fine-tuning.
        rounds: how many.
        parallel: the scheme.
        frozen_teacher: p and the hidden states in q* are those of the round's first model, for one more forward pass a
            step; otherwise the model's own, as it moves.
        sources, labels: the regulariser is on tokens of documents of one of these alone; None for both: on all.
        seed: of the data order.

    Raises:
        ValueError: an argument out of range.
    """

    NOT_SETTINGS: ClassVar[tuple[str, ...]] = ("rounds", "parallel")  # they decide which stages there are

    optim: Optimization
    guidance: GuidanceTraining
    weight: float = 1.0
    rounds: int = 2
    parallel: bool = False
    frozen_teacher: bool = False
    sources: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0)
        check_whole_number("rounds", self.rounds, least=1)
        check_seed(self.seed)
        if self.optim.epochs == 0:
            raise ValueError("optim.epochs=0: nothing is trained; choose post_training=none")

    def check(self, corpus: Corpus) -> None:
        """Raise ValueError where there are too few blocks, or no document is regularised."""
        self.mask(corpus)
        with argument("optim"):
            self.optim.steps(len(corpus.split("train")))

    def mask(self, corpus: Corpus) -> DocumentMask | None:
        """Which tokens are regularised; None: all."""
        if self.sources is None and self.labels is None:
            return None
        return DocumentMask(corpus.split("train"), corpus.sources, self.sources or (), self.labels or ())

    def train(
        self,
        model: PreTrainedModel,
        guidance: GuidanceHead,
        *,
        samples: LabelledSamples | None,
        corpus: Corpus,
        round_: int,
        context: TrainingContext,
    ) -> tuple[GuidanceHead | None, dict[str, Any]]:
        """One round: train a model in place; the caller saves it.

        Args:
            model: of the round before.
            guidance: R̂, for the model of the round before.
            samples: what the next R̂ learns from at the same time; None: none learns.
            corpus: what the model learns from.
            round_: from 1 up; each has a data order of its own.
            context: where it is computed, and keeps its checkpoints.

        Returns:
            The next R̂, if one learned; and facts: steps, losses, and seconds of a step and of one of ordinary
            fine-tuning, forward and backward, on the same blocks.
        """
        split, device = corpus.split("train"), context.trainer.device
        seed, steps = self.seed + BETWEEN_ROUNDS * (round_ - 1), self.optim.steps(len(split))
        per_block = -(-self.guidance.optim.batch_size // self.optim.batch_size)
        examples = ControlledBlocks(split, self.mask(corpus), samples, per_block=per_block, seed=seed)
        learner = None if samples is None else deepcopy(guidance)
        previous = deepcopy(model) if self.frozen_teacher and self.weight else None
        model.train()
        network: Any = torch.compile(model) if context.trainer.compile else model
        module = ControlledModule(
            network, guidance, previous, self.optim, steps=steps, seed=seed, weight=self.weight, learner=learner,
            training=self.guidance,
        )  # fmt: skip
        micro = self.optim.batch_size // context.trainer.accumulate(self.optim.batch_size)
        batch = examples[np.arange(min(micro, len(examples)))]
        cost = seconds_of_steps(module, batch, device)
        data = ExampleDataModule(
            examples=examples,
            validation=BlockDataset(corpus.split("validation")),
            steps=steps,
            batch_size=self.optim.batch_size,
            accumulate=context.trainer.accumulate(self.optim.batch_size),
            seed=seed,
            validation_batch=context.trainer.micro_batch_size,
        )
        facts = fit(module, data, context, steps=steps)
        return learner, {**facts, **cost}


def seconds_of_steps(module: ControlledModule, batch: Mapping[str, Tensor], device: torch.device) -> dict[str, float]:
    """The least seconds of a forward and backward pass: of the module's loss, and of ordinary fine-tuning; in turns, in
    float32. The weights stay as they are."""
    module.to(device)
    given = {name: value.to(device) for name, value in batch.items()}
    losses: dict[str, Callable[[], Tensor]] = {
        "seconds_per_step": lambda: module.loss(given),
        "seconds_per_ordinary_step": lambda: module.validation_loss(given),
    }
    found: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(TIMED):
        for name, loss in losses.items():
            start = time.perf_counter()
            loss().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found[name].append(time.perf_counter() - start)
            module.zero_grad(set_to_none=True)
    return {name: min(seconds[1:]) for name, seconds in found.items()}
