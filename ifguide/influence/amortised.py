"""Amortised scoring: exact scores of a few blocks, and a student of those scores for all of them.

A single exact score is mostly noise. A student that sees a token and its neighbours can only learn what tokens in like
places share, so it leaves the noise out, at a small part of the cost. The student that does best is the plainest, a
table of words (`ifguide.influence.pooling.WordPooling`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ifguide.checks import check_number, check_seed, check_whole_number
from ifguide.influence.pooling import Tokens
from ifguide.workspace import read_json

WEIGHTS, SHAPE = "student.safetensors", "student.json"

# K behaviours, B blocks, T tokens, V vocabulary


class FittedStudent(Protocol):
    """A module with `scores(ids_BT) → [K, B, T]` (column 0 is 0)."""

    def scores(self, ids_BT: Tensor) -> Tensor: ...
    def save(self, directory: Path) -> None: ...


class Student(Protocol):
    """Fits to exact scores of some blocks, and loads what it fitted."""

    def fit(
        self, scores_KBT: NDArray[np.float32], tokens: Tokens, texts: Sequence[str]
    ) -> tuple[Any, dict[str, Any]]: ...
    def load(self, directory: Path) -> Any: ...


@dataclass(frozen=True)
class Amortised:
    """How to score all blocks from few.

    Attributes:
        student: what is fitted to exact scores of the sample.
        share: of the blocks, to score exactly.
        seed: of the sample.
        floors: measure what the student has learned (`ifguide.influence.floors`), at the cost of two more fits of it.

    Raises:
        ValueError: a share outside (0, 1).
    """

    student: Student
    share: float = 0.05
    seed: int = 0
    floors: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share={self.share}: a share of the blocks above 0 and below 1")
        check_seed(self.seed)


@dataclass(frozen=True)
class ConvolutionStudent:
    """A small convolutional network, fitted by the Huber loss of signed square roots of scores.

    Attributes:
        width: channels.
        kernels: tokens that each convolution sees, odd numbers.
        epochs, learning_rate, batch_size: of the fit; batches are blocks.
        seed: of the first weights and of the order of batches.

    Raises:
        ValueError: an even kernel, or a number below 1.
    """

    width: int = 32
    kernels: Sequence[int] = (5, 5)
    epochs: int = 16
    learning_rate: float = 3e-3
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if any(kernel % 2 == 0 or kernel < 1 for kernel in self.kernels):
            raise ValueError(f"kernels={list(self.kernels)}: a kernel is an odd number of tokens")
        for name in ("width", "epochs", "batch_size"):
            check_whole_number(name, getattr(self, name), least=1)
        check_number("learning_rate", self.learning_rate, above=0)
        check_seed(self.seed)

    def fit(
        self, scores_KBT: NDArray[np.float32], tokens: Tokens, texts: Sequence[str]
    ) -> tuple["Convolutions", dict[str, Any]]:
        torch.manual_seed(self.seed)
        ids = torch.from_numpy(tokens(slice(0, scores_KBT.shape[1])))
        scores = torch.from_numpy(np.array(scores_KBT))
        scale = scores[..., 1:].flatten(1).std(1)
        student = Convolutions(len(texts), scale, width=self.width, kernels=self.kernels)
        steps = self.epochs * -(-len(ids) // self.batch_size)
        optimizer = torch.optim.AdamW(student.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=max(steps, 2))
        generator = torch.Generator().manual_seed(self.seed)
        loss = torch.zeros(())
        for _ in range(self.epochs):
            for batch in torch.randperm(len(ids), generator=generator).split(self.batch_size):
                loss = F.huber_loss(student(ids[batch])[..., 1:], student.compress(scores[:, batch, 1:]))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        return student.eval(), {"last_loss": loss.item()}

    def load(self, directory: Path) -> "Convolutions":
        return Convolutions.load(directory)


class Convolutions(nn.Module):
    """Token ids → compressed scores: an embedding, residual convolutions over neighbouring tokens, a bias per type.

    Args:
        vocabulary: V.
        scale: [K], unit of the scores.
        width, kernels: channels, and tokens seen by each convolution.
    """

    def __init__(self, vocabulary: int, scale: Tensor, *, width: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.shape = {"vocabulary": vocabulary, "behaviours": len(scale), "width": width, "kernels": list(kernels)}
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, kernel, padding=kernel // 2) for kernel in kernels)
        self.head = nn.Linear(width, len(scale))
        self.bias = nn.Embedding(vocabulary, len(scale))
        nn.init.zeros_(self.bias.weight)
        self.register_buffer("scale", scale)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """[K, B, T]."""
        hidden = self.embedding(ids_BT).transpose(1, 2)
        for convolution in self.convolutions:
            hidden = hidden + F.gelu(convolution(hidden))
        compressed: Tensor = (self.head(hidden.transpose(1, 2)) + self.bias(ids_BT)).permute(2, 0, 1)
        return compressed

    def compress(self, scores_KBT: Tensor) -> Tensor:
        """sign(s) √(|s| / scale): the tails of scores are long."""
        units = scores_KBT / self.scale[:, None, None]  # type: ignore[index]
        return units.sign() * units.abs().sqrt()

    def scores(self, ids_BT: Tensor) -> Tensor:
        """Predicted scores in the units of exact ones, [K, B, T]; column 0 is 0."""
        with torch.no_grad():
            root = self(ids_BT)
            scores: Tensor = root * root.abs() * self.scale[:, None, None]  # type: ignore[index]
            scores[..., 0] = 0
            return scores

    def save(self, directory: Path) -> None:
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, directory / WEIGHTS)
        (directory / SHAPE).write_text(json.dumps(self.shape), encoding="utf-8")

    @staticmethod
    def load(directory: Path) -> "Convolutions":
        shape = read_json(directory / SHAPE)
        scale = torch.ones(shape.pop("behaviours"))
        student = Convolutions(shape.pop("vocabulary"), scale, **shape)
        student.load_state_dict(load_file(directory / WEIGHTS))
        return student.eval()
