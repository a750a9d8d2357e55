"""Token scores of a classifier of texts: it judges the windows of words that a token is in.

These scores have the shape and the convention of influence scores (`ifguide.influence.store`), so whatever reads those
reads them: pooling, selection, mask. No model is trained for them. They tell how a text reads, not what a model learns
from it; comparing both with an equal number of tokens is what they are for (Rathi and Radford, 2026, arXiv 2601.21571).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from re import finditer
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ifguide.checks import check_whole_number
from ifguide.classifiers import Classifier, ClassifierSettings
from ifguide.classifiers.base import TOXICITY, of_category
from ifguide.influence.store import create_scores

DOCUMENTS_AT_ONCE = 1000
POOLINGS: dict[str, Callable[..., Any]] = {"mean": np.nanmean, "max": np.nanmax}

# W words, N tokens of a document
Offsets = Callable[[NDArray[np.int64]], tuple[str, NDArray[np.int64]]]  # [N] ids → their text, [N, 2] characters


@dataclass(frozen=True, kw_only=True)
class WindowClassifier:
    """Judges, around each word of a document, a window of words; a token scores the mean, or the highest, probability
    of the windows that its word is in.

    The mean tells a word from those beside it: of all words, an insult alone is in every window that holds it. With the
    highest, the words around it score as high.

    Args:
        classifier: who judges.
        category: the category that counts.
        window: words of a window, an odd number: one word and those around it.
        pooling: `mean` or `max`.

    Raises:
        ValueError: an argument out of range.
    """

    NOT_SETTINGS: ClassVar = ("classifier",)  # an artifact of its own, which scores are made from
    reads: ClassVar = "texts"

    classifier: ClassifierSettings
    category: str = TOXICITY
    window: int = 5
    pooling: str = "mean"

    def __post_init__(self) -> None:
        check_whole_number("window", self.window, least=1)
        if self.window % 2 == 0:
            raise ValueError(f"window={self.window}: an odd number of words: one, and as many on either side")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling}; known: {', '.join(POOLINGS)}")

    def scores(
        self, documents: Iterable[NDArray[np.int64]], offsets: Offsets, end_of_text: int, classifier: Classifier
    ) -> Iterator[NDArray[np.float32]]:
        """Scores of the tokens of one document after the other, [N] each; that of an end-of-text token is 0.

        Args:
            documents: the token ids of each.
            offsets: what reads them (`ifguide.corpus.offsets.TokenOffsets`).
            end_of_text: id of the token between documents.
            classifier: loaded.

        Raises:
            ValueError: the classifier has no such category.
        """
        documents = iter(documents)
        while batch := list(islice(documents, DOCUMENTS_AT_ONCE)):
            read = [offsets(ids[ids != end_of_text]) for ids in batch]
            spans = [word_spans(text) for text, _ in read]
            pieces = [windows(text, words, self.window) for (text, _), words in zip(read, spans, strict=True)]
            judged = of_category(classifier, [piece for document in pieces for piece in document], self.category)
            probabilities = np.split(judged, np.cumsum([len(document) for document in pieces])[:-1])
            for ids, (_, characters), words, values in zip(batch, read, spans, probabilities, strict=True):
                scores = np.zeros(len(ids), np.float32)
                if len(words):
                    of_words = pool_windows(values, self.window, self.pooling)
                    scores[ids != end_of_text] = of_words[words_of(characters, words)]
                yield scores


def word_spans(text: str) -> NDArray[np.int64]:
    """Half-open ranges of characters of the words of a text, [W, 2]."""
    return np.array([match.span() for match in finditer(r"\S+", text)], np.int64).reshape(-1, 2)


def windows(text: str, spans_W2: NDArray[np.int64], size: int) -> list[str]:
    """The text of each word with as many words on either side as make `size`, fewer at the text's ends."""
    half, last = size // 2, len(spans_W2) - 1
    return [
        text[spans_W2[max(word - half, 0), 0] : spans_W2[min(word + half, last), 1]] for word in range(len(spans_W2))
    ]


def pool_windows(probabilities_W: NDArray[np.float64], size: int, pooling: str) -> NDArray[np.float64]:
    """Of each word, the mean or the highest of the windows (`windows`) that hold it."""
    around = np.pad(probabilities_W, size // 2, constant_values=np.nan)
    pooled: NDArray[np.float64] = POOLINGS[pooling](sliding_window_view(around, size), axis=1)
    return pooled


def words_of(characters_N2: NDArray[np.int64], spans_W2: NDArray[np.int64]) -> NDArray[np.int64]:
    """The word of each token: that of its last character; of blanks the next word, behind the last word that one."""
    return np.searchsorted(spans_W2[:, 1], characters_N2[:, 1] - 1, side="right").clip(max=len(spans_W2) - 1)


def write_documents(directory: Path, shape: tuple[int, int], pieces: Iterable[Sequence[float] | NDArray[Any]]) -> None:
    """Write scores of one document after the other as the score file of a behaviour; column 0 becomes 0.

    Args:
        directory: of the file.
        shape: [blocks, block length] of the split whose documents they are.
        pieces: scores of each document's tokens, which are together those of all blocks.
    """
    with create_scores(directory, (1, *shape)) as scores_KBT:
        flat, position = scores_KBT[0].reshape(-1), 0
        for piece in pieces:
            flat[position : position + len(piece)] = piece
            position += len(piece)
        assert position == flat.size, f"{position} scores of {flat.size} tokens"
        scores_KBT[..., 0] = 0
