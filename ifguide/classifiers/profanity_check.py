"""alt-profanity-check: a linear classifier whose weights ship inside its package. It is blind to implicit hate."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ifguide.classifiers.base import TOXICITY


class ProfanityCheck:
    """Probability that a text is offensive.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self) -> None:
        try:
            from profanity_check import predict_prob
        except ImportError:
            raise ValueError(
                "classifier=profanity_check needs alt-profanity-check: pip install 'ifguide[sample]'"
            ) from None
        from importlib.metadata import version

        self.name = f"alt-profanity-check {version('alt-profanity-check')}"
        self._predict = predict_prob

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        return {TOXICITY: np.asarray(self._predict(list(texts)), dtype=np.float64) if texts else np.zeros(0)}
