"""alt-profanity-check: a linear classifier whose weights ship inside its package. It is blind to implicit hate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ifguide.classifiers.base import TOXICITY, ReadyClassifier


@dataclass(frozen=True)
class ProfanityCheck(ReadyClassifier):
    """Probability that a text is offensive.

    Raises:
        ValueError: the package is not installed.
    """

    ALSO_SETTINGS: ClassVar[tuple[str, ...]] = ("name",)  # which has the version of the package with the weights

    def __post_init__(self) -> None:
        if find_spec("profanity_check") is None:
            raise ValueError("alt-profanity-check is not installed: pip install 'ifguide[sample]'")

    @property
    def name(self) -> str:
        return f"alt-profanity-check {version('alt-profanity-check')}"

    def load(self, folder: Path | None = None, device: str | torch.device = "cpu") -> "LoadedProfanityCheck":
        """It computes on the CPU, whatever the device."""
        from profanity_check import predict_prob

        return LoadedProfanityCheck(self.name, predict_prob)


@dataclass(frozen=True)
class LoadedProfanityCheck:
    """The package's function."""

    name: str
    predict: Callable[[list[str]], Any]

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        return {TOXICITY: np.asarray(self.predict(list(texts)), dtype=np.float64) if texts else np.zeros(0)}
