"""How a model is optimised: everything that decides the path of training, apart from the objective and the data."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class AdamWCosine:
    """AdamW with linear warm-up and cosine decay.

    Args:
        learning_rate: the peak.
        batch_size: blocks per optimiser step, over all devices and accumulated micro-batches.
        epochs: passes over the training blocks; fractions and 0 (keep the pretrained weights) are allowed.
        betas, eps, weight_decay: of AdamW; biases and norms are not decayed.
        warmup: share of the steps in which the rate rises to the peak.
        final: the rate at the end, as a share of the peak.
        clip: largest gradient norm.
    """

    learning_rate: float
    batch_size: int
    epochs: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 4e-4
    warmup: float = 0.01
    final: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name, value, rule, ok in (
            ("learning_rate", self.learning_rate, "above 0", self.learning_rate > 0),
            ("batch_size", self.batch_size, "at least 1", self.batch_size >= 1),
            ("epochs", self.epochs, "0 or more", self.epochs >= 0),
            ("warmup", self.warmup, "a share in [0, 1]", 0 <= self.warmup <= 1),
            ("clip", self.clip, "above 0", self.clip > 0),
        ):
            if not ok:
                raise ValueError(f"optim.{name}={value}: must be {rule}")

    def steps(self, blocks: int, unit: str = "blocks", setting: str = "optim") -> int:
        """Optimiser steps for a corpus of this many blocks.

        Args:
            blocks: how many there are.
            unit: what they are, and
            setting: where the configuration has this optimisation, for the message.

        Raises:
            ValueError: the corpus is too small for a single step.
        """
        steps = round(self.epochs * blocks / self.batch_size)
        if steps == 0 and self.epochs > 0:
            raise ValueError(
                f"{self.epochs} epochs of {blocks} {unit} are less than half a step of {setting}.batch_size="
                f"{self.batch_size} {unit}: use a smaller batch, more epochs or a larger corpus"
            )
        return steps

    def configure(
        self, parameters: Iterable[tuple[str, nn.Parameter]], steps: int
    ) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Optimiser over named parameters, and its schedule in optimiser steps."""
        trained = [parameter for _, parameter in parameters if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=self.learning_rate, betas=(self.betas[0], self.betas[1]), eps=self.eps, fused=True
        )
        warmup = round(self.warmup * steps)

        def rate(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
            return self.final + (1 - self.final) * 0.5 * (1 + cos(pi * progress))

        return optimizer, LambdaLR(optimizer, rate)
