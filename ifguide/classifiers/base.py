"""The protocol of a classifier."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TOXICITY = "toxicity"


class Classifier(Protocol):
    """Callable: n texts → category → [n] probabilities. The category `toxicity` is always there.

    `name` identifies classifier and weights, in fingerprints and in reports. A classifier that fails raises.
    """

    name: str

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]: ...
