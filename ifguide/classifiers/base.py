"""The protocols of classifiers: as they are configured, and as they classify."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

TOXICITY = "toxicity"


class Classifier(Protocol):
    """Callable: n texts → category → [n] probabilities. The category `toxicity` is always there.

    `name` is for people. A classifier that fails raises.
    """

    @property
    def name(self) -> str: ...
    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]: ...


class ClassifierSettings(Protocol):
    """A classifier as it is configured: `fit` once, then `load` wherever it is needed."""

    @property
    def name(self) -> str: ...

    def fit(self, folder: Path) -> dict[str, Any]:
        """Write what training yields into a folder, where there is training; returns facts of it."""
        ...

    def load(self, folder: Path, device: str | torch.device) -> Classifier:
        """The classifier on a device.

        Args:
            folder: what `fit` wrote.
            device: where it computes, if it can choose.
        """
        ...


class ReadyClassifier:
    """Base of classifiers whose weights or scores exist already: there is nothing to fit."""

    def fit(self, folder: Path) -> dict[str, Any]:
        return {}
