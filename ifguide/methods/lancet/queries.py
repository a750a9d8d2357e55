"""What a model wrote that shows the behaviour, as queries."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.documents import Query


def queries_of(
    rows: Iterable[Mapping[str, Any]], probabilities_PS: NDArray[np.floating], threshold: float
) -> Sequence[Query]:
    """The continuations that a classifier finds to show the behaviour, each behind its prompt.

    Args:
        rows: of `load_generations`: prompt, record and S continuations of each of P prompts.
        probabilities_PS: what the classifier says of each continuation.
        threshold: the probability from which one shows it.

    Raises:
        ValueError: none does.
    """
    found = [
        Query(row["prompt"], text, True, f"{row['record']}, sample {number}")
        for row, probabilities_S in zip(rows, probabilities_PS, strict=True)
        for number, (text, probability) in enumerate(zip(row["continuations"], probabilities_S, strict=True))
        if probability >= threshold and text.strip()
    ]
    if not found:
        raise ValueError(
            f"threshold={threshold}: none of {probabilities_PS.size:,} continuations reaches it, the highest has "
            f"{probabilities_PS.max():.2f}; lower it, draw more samples, or use post_training.queries=labelled"
        )
    return found
