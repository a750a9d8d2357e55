"""Scores that were made elsewhere (Perspective is a service on the network), read from a file."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ifguide.classifiers.base import TOXICITY


class FileClassifier:
    """Looks every text up among texts with scores.

    A text without any character but white space is 0 in every category: there is nothing in it to score, and
    Perspective refuses it.

    Args:
        scores: text → category → score in [0, 1]; `toxicity` is one of the categories.
        name: where the scores come from, for reports.

    Raises:
        ValueError: no scores, or none of toxicity; when called, texts that have no score.
    """

    def __init__(self, *, scores: Mapping[str, Mapping[str, float]], name: str = "scores of a file") -> None:
        if not scores:
            raise ValueError("classifier.scores: there is no text with scores")
        self._scores, self.name = scores, name
        self._categories = list(next(iter(scores.values())))
        if TOXICITY not in self._categories:
            raise ValueError(
                f"classifier.scores.categories has no `{TOXICITY}`, only {', '.join(self._categories) or 'nothing'}"
            )

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        missing = [text for text in texts if text.strip() and text not in self._scores]
        if missing:
            raise ValueError(
                f"{self.name}: {len(missing)} of {len(texts)} texts have no score ({len(set(missing))} distinct ones), "
                f"the first is {missing[0][:80]!r}. Score the texts of generations.arrow and add them to the file"
            )
        nothing = dict.fromkeys(self._categories, 0.0)
        rows = [self._scores[text] if text.strip() else nothing for text in texts]
        return {category: np.array([row[category] for row in rows], dtype=float) for category in self._categories}
