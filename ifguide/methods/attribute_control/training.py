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
from ifguide.methods.nado import GuidanceHead, GuidanceTraining
from ifguide.training.context import TrainingContext
from ifguide.training.data import BlockDataset, ExampleDataModule
from ifguide.training.fit import fit
from ifguide.training.optimization import Optimization

BETWEEN_ROUNDS = 10_007  # of the seeds of their data orders
TIMED = 4  # steps of either kind, the first of which only warms up


@dataclass(frozen=True, kw_only=True)
class AttributeControl:
    """Fine-tuning on the corpus by ℓ + λ·KL(q* ‖ p_θ), q* ∝ p·R̂, in rounds in each of which R̂ goes on learning.

    Sequential: the model of the round before is sampled, R̂ learns for that model and from its samples, and then the
    model learns with R̂. Parallel: the R̂ of a round is for the model of two rounds before, from samples of the
    one before that, so that it can learn while the model of the round before does: on another device, or in another
    process. Before the first round there is only the model that training starts from.

    Args:
        optim: how the model is optimised, in each round.
        guidance: how R̂ is trained, for each round.
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
        for name in ("sources", "labels"):
            if getattr(self, name) is not None and not len(getattr(self, name)):
                raise ValueError(f"{name}=[]: name one at least; null: all that the other one names, or all there are")

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
        corpus: Corpus,
        round_: int,
        context: TrainingContext,
    ) -> dict[str, Any]:
        """One round: train a model in place; the caller saves it.

        Args:
            model: of the round before.
            guidance: R̂ of the round.
            corpus: what the model learns from.
            round_: from 1 up; each has a data order of its own.
            context: where it is computed, and keeps its checkpoints.

        Returns:
            Facts: steps, losses, and seconds of a step and of one of ordinary fine-tuning, forward and backward, on the
            same blocks.
        """
        split, device = corpus.split("train"), context.trainer.device
        seed, steps = self.seed + BETWEEN_ROUNDS * (round_ - 1), self.optim.steps(len(split))
        examples = ControlledBlocks(split, self.mask(corpus))
        previous = deepcopy(model) if self.frozen_teacher and self.weight else None
        model.train()
        module = ControlledModule(
            model, guidance, previous, self.optim, steps=steps, seed=seed, weight=self.weight,
            compiled=context.trainer.compile,
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
        return {**fit(module, data, context, steps=steps), **cost}


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
