"""How a model is optimised: everything that decides the path of training, apart from the objective and the data."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ifguide.checks import check_whole_number
from ifguide.training.schedules import Cosine, Schedule

SET_HERE = {"params": "every weight is optimised", "lr": "set learning_rate", "weight_decay": "set weight_decay here"}


def adamw() -> Callable[..., torch.optim.Optimizer]:
    return partial(torch.optim.AdamW, betas=(0.9, 0.95), eps=1e-8, fused=True)


@dataclass(frozen=True)
class Optimization:
    """An optimiser of torch, its schedule, and how much it reads.

    Args:
        learning_rate: the peak.
        batch_size: blocks per optimiser step, over all devices and accumulated micro-batches.
        epochs: passes over the training blocks; fractions and 0 (keep the pretrained weights) are allowed.
        max_steps: optimiser steps, in place of those that `epochs` make; blocks are read again where they are too few.
        weight_decay: of the optimiser; biases and norms are not decayed.
        clip: largest gradient norm.
        optimizer: a class of `torch.optim` with its own arguments, as in `partial(torch.optim.SGD, momentum=0.9)`.
        schedule: of the learning rate.

    Raises:
        ValueError: a setting out of range, or an argument that the optimiser does not take.
    """

    learning_rate: float
    batch_size: int
    epochs: float
    weight_decay: float = 4e-4
    clip: float = 1.0
    optimizer: Callable[..., torch.optim.Optimizer] = field(default_factory=adamw)
    schedule: Schedule = field(default_factory=partial(Cosine, warmup=0.01))
    max_steps: int | None = None

    LEFT_OUT_AT_DEFAULT: ClassVar = ("max_steps",)

    def __post_init__(self) -> None:
        check_whole_number("batch_size", self.batch_size, least=1)
        for name, rule, ok in (
            ("learning_rate", "above 0", self.learning_rate > 0),
            ("epochs", "0 or more", self.epochs >= 0),
            ("weight_decay", "0 or more", self.weight_decay >= 0),
            ("clip", "above 0", self.clip > 0),
        ):
            if not ok:
                raise ValueError(f"{name}={getattr(self, name)}: must be {rule}")
        if self.max_steps is not None:
            check_whole_number("max_steps", self.max_steps, least=1)
            if self.epochs == 0:
                raise ValueError(f"max_steps={self.max_steps}: epochs=0 trains nothing; leave one of them out")
        arguments, given = self._optimizer_arguments, getattr(self.optimizer, "keywords", {})
        for name, value in given.items():
            if name in SET_HERE:
                raise ValueError(f"optimizer.{name}={value}: {SET_HERE[name]}")
            if name not in arguments:
                own = ", ".join(key for key in arguments if key not in SET_HERE)
                raise ValueError(f"optimizer.{name}={value}: no argument of the optimiser, which takes {own}")
        if self.weight_decay and "weight_decay" not in arguments:
            raise ValueError(f"weight_decay={self.weight_decay}: this optimiser has none; set it to 0")

    @property
    def _optimizer_arguments(self) -> list[str]:
        made = self.optimizer.func if isinstance(self.optimizer, partial) else self.optimizer
        return list(inspect.signature(made).parameters)

    def steps(self, count: int, unit: str = "blocks") -> int:
        """Optimiser steps for so many blocks, or whatever else is learned from.

        Args:
            count: how many there are.
            unit: what they are, for the message.

        Raises:
            ValueError: they are too few for a single step.
        """
        steps = round(self.expected_steps(count))
        if steps == 0 and self.epochs > 0:
            raise ValueError(
                f"batch_size={self.batch_size}: {self.epochs} epochs of {count} {unit} are less than half a step; "
                "use a smaller batch, more epochs or more data"
            )
        return steps

    def expected_steps(self, count: float) -> float:
        """As `steps`, of a number that need not be whole, for estimates."""
        return self.epochs * count / self.batch_size if self.max_steps is None else self.max_steps

    def configure(
        self, parameters: Iterable[tuple[str, nn.Parameter]], steps: int
    ) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Optimiser over named parameters, and its schedule in optimiser steps."""
        trained = [parameter for _, parameter in parameters if parameter.requires_grad]
        matrices, vectors = ([p for p in trained if (p.ndim >= 2) == wanted] for wanted in (True, False))
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors}]
        if "weight_decay" in self._optimizer_arguments:
            groups[0]["weight_decay"], groups[1]["weight_decay"] = self.weight_decay, 0.0
        optimizer = self.optimizer(groups, lr=self.learning_rate)
        return optimizer, LambdaLR(optimizer, lambda step: self.schedule.rate(step, steps))
