"""Scores that were made elsewhere (Perspective is a service on the network), read from a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ifguide.checks import argument
from ifguide.classifiers.base import TOXICITY, ReadyClassifier


class ScoreFile(Protocol):
    """Scores of texts in files; `categories` says which there are, by name."""

    @property
    def categories(self) -> Mapping[str, str]: ...

    def read(self) -> Mapping[str, Mapping[str, float]]:
        """Text → category → score in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class FileClassifier(ReadyClassifier):
    """Looks every text up among texts with scores.

    A text without any character but white space is 0 in every category: there is nothing in it to score, and
    Perspective refuses it.

    Args:
        scores: where they are read from; `toxicity` is one of the categories.
        name: where the scores come from, for reports.

    Raises:
        ValueError: no scores of toxicity; when loaded, no text with scores; when called, texts that have no score.
    """

    NOT_SETTINGS: ClassVar = ("name",)

    scores: ScoreFile
    name: str = "scores of a file"

    def __post_init__(self) -> None:
        if TOXICITY not in self.scores.categories:
            raise ValueError(
                f"scores.categories has no `{TOXICITY}`, only {', '.join(self.scores.categories) or 'nothing'}"
            )

    def fit(self, folder: Path) -> dict[str, Any]:
        return {"texts": len(self.load(folder).scores)}

    def load(self, folder: Path | None = None, device: str | torch.device = "cpu") -> "LoadedScores":
        with argument("scores"):
            scores = self.scores.read()
        if not scores:
            raise ValueError("scores: there is no text with scores")
        return LoadedScores(self.name, scores, tuple(self.scores.categories))


@dataclass(frozen=True)
class LoadedScores:
    """Text → category → score."""

    name: str
    scores: Mapping[str, Mapping[str, float]]
    categories: Sequence[str]

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        missing = [text for text in texts if text.strip() and text not in self.scores]
        if missing:
            raise ValueError(
                f"{self.name}: {len(missing)} of {len(texts)} texts have no score ({len(set(missing))} distinct ones), "
                f"the first is {missing[0][:80]!r}. Score the texts of generations.arrow and add them to the file"
            )
        nothing = dict.fromkeys(self.categories, 0.0)
        rows = [self.scores[text] if text.strip() else nothing for text in texts]
        return {category: np.array([row[category] for row in rows], dtype=float) for category in self.categories}
