"""Filters: which documents a model is not trained on, from what they say or from how they influence it.

A filter gives every document one or more scores (`scores`), and drops documents by them (`drop`). Apart from the
names in `rule`, its settings decide the scores; those named there decide what is dropped at given scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ifguide.checks import check_limit, check_number, check_whole_number
from ifguide.classifiers import Classifier, ClassifierSettings
from ifguide.classifiers.base import TOXICITY, of_category
from ifguide.corpus.blocks import LABELS
from ifguide.corpus.documents import BENIGN, TOXIC, Query
from ifguide.corpus.words import WordCounter, indicative_words, read_words

DOCUMENTS_AT_ONCE = 1000

# K scores a document, D documents


class DocumentFilter(Protocol):
    """`rule`: settings that decide what is dropped at given scores; `reads`: what the scores are made from, documents'
    texts (`TextFilter.scores`) or their tokens' influence scores; `uses_queries`: the scores depend on the queries of
    the behaviours; `classifier`: who judges, if anyone does."""

    rule: ClassVar[tuple[str, ...]]
    reads: ClassVar[Literal["texts", "scores"]]

    @property
    def uses_queries(self) -> bool: ...
    @property
    def classifier(self) -> ClassifierSettings | None: ...
    def drop(self, scores_KD: NDArray[np.float64]) -> NDArray[np.bool_]: ...


class TextFilter(DocumentFilter, Protocol):
    """A filter that reads texts."""

    def scores(
        self, texts: Iterable[str], queries: Sequence[Sequence[Query]], classifier: Classifier | None = None
    ) -> NDArray[np.float64]:
        """Scores of each document, [K, D].

        Args:
            texts: of the documents.
            queries: of each behaviour.
            classifier: the filter's classifier, loaded.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class WordFilter:
    """Drops documents that hold words of a list.

    Args:
        files: lists of words and phrases, as in `read_words`; None: the words most indicative of each
            behaviour's queries.
        column: the column of `.csv` files.
        log_odds: words learned from the queries have at least these log-odds of being in a toxic continuation.
        at_least: hits from which a document is dropped.

    Raises:
        ValueError: no such file, or a number out of range.
    """

    rule: ClassVar = ("at_least",)
    reads: ClassVar = "texts"
    classifier: ClassVar = None

    files: str | Sequence[str] | None = None
    column: str | None = None
    log_odds: float = 2.0
    at_least: int = 1

    def __post_init__(self) -> None:
        check_whole_number("at_least", self.at_least, least=1)
        check_number("log_odds", self.log_odds, above=0)  # or words that speak against it would count too
        if self.files is not None:
            read_words(self.files, self.column)

    @property
    def uses_queries(self) -> bool:
        return self.files is None

    def scores(
        self, texts: Iterable[str], queries: Sequence[Sequence[Query]], classifier: Classifier | None = None
    ) -> NDArray[np.float64]:
        """Hits in each document, [1, D].

        Raises:
            ValueError: words are to be learned, and no word is indicative.
        """
        if self.files is not None:
            words = read_words(self.files, self.column)
        else:
            words = [word for chosen in queries for word in indicative_words(chosen, self.log_odds)]
        count = WordCounter(words)
        return np.array([[count(text) for text in texts]], np.float64)

    def drop(self, scores_KD: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(scores_KD[0] >= self.at_least)


@dataclass(frozen=True, kw_only=True)
class ClassifierFilter:
    """Drops documents that a classifier finds toxic.

    Args:
        classifier: who judges.
        category: the category that counts.
        window: a document is as toxic as its worst window of so many words (windows overlap by half); None: it is
            judged as a whole, which dilutes what is toxic in a long one.
        threshold: documents from this probability on are dropped; or
        share: this share of all documents, the most toxic ones.

    Raises:
        ValueError: an argument out of range, or not exactly one of `threshold` and `share`.
    """

    rule: ClassVar = ("threshold", "share")
    reads: ClassVar = "texts"
    uses_queries: ClassVar = False

    classifier: ClassifierSettings
    category: str = TOXICITY
    window: int | None = 20
    threshold: float | None = 0.5
    share: float | None = None

    def __post_init__(self) -> None:
        check_rule(self.threshold, self.share)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: a probability lies in [0, 1]")
        check_limit(self.window, "window")

    def scores(
        self, texts: Iterable[str], queries: Sequence[Sequence[Query]] = (), classifier: Classifier | None = None
    ) -> NDArray[np.float64]:
        """Probability of each document's most toxic window, [1, D].

        Raises:
            ValueError: the classifier has no such category.
        """
        assert classifier is not None
        texts, parts = iter(texts), [np.zeros(0)]
        while batch := list(islice(texts, DOCUMENTS_AT_ONCE)):
            pieces = [windows(text, self.window) for text in batch]
            judged = of_category(classifier, [piece for document in pieces for piece in document], self.category)
            parts.append(np.maximum.reduceat(judged, np.cumsum([0, *map(len, pieces[:-1])])))
        return np.concatenate(parts)[None]

    def drop(self, scores_KD: NDArray[np.float64]) -> NDArray[np.bool_]:
        return drop_highest(scores_KD[0], threshold=self.threshold, share=self.share)


@dataclass(frozen=True, kw_only=True)
class InfluenceFilter:
    """Drops the documents that teach a behaviour most, by the sum of their tokens' influence scores.

    With `contrast` off this is the standard, document-level influence that the paper found to fail: its direction is
    that of the toxic queries alone.

    Args:
        contrast: score along g(toxic) − g(nontoxic), as the mask does, instead of g(toxic).
        threshold: documents from this score on are dropped; or
        share: this share of all documents, those with the highest scores (of each behaviour).

    Raises:
        ValueError: an argument out of range, or not exactly one of `threshold` and `share`.
    """

    rule: ClassVar = ("threshold", "share")
    reads: ClassVar = "scores"
    uses_queries: ClassVar = True
    classifier: ClassVar = None

    contrast: bool = False
    threshold: float | None = None
    share: float | None = 0.5

    def __post_init__(self) -> None:
        check_rule(self.threshold, self.share)

    def drop(self, scores_KD: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Documents that one of the behaviours drops."""
        chosen = [drop_highest(scores, threshold=self.threshold, share=self.share) for scores in scores_KD]
        return np.asarray(np.any(chosen, axis=0))


def check_rule(threshold: float | None, share: float | None) -> None:
    """Raise ValueError unless exactly one of both is given, and a share is one."""
    if (threshold is None) == (share is None):
        raise ValueError(
            f"threshold={threshold}, share={share}: exactly one of them decides what is dropped; set the other to null"
        )
    if share is not None and not 0 <= share < 1:
        raise ValueError(f"share={share}: the share of documents to drop lies in [0, 1)")


def drop_highest(
    scores_D: NDArray[np.float64], *, threshold: float | None = None, share: float | None = None
) -> NDArray[np.bool_]:
    """Documents with scores from `threshold` on, or the `share` of them with the highest scores, ties by index.

    Raises:
        ValueError: scores that are not finite, or not exactly one of both rules.
    """
    if not np.isfinite(scores_D).all():
        raise ValueError("some documents' scores are not finite")
    check_rule(threshold, share)
    if threshold is not None:
        return scores_D >= threshold
    dropped = np.zeros(len(scores_D), dtype=bool)
    dropped[np.argsort(-scores_D, kind="stable")[: int((share or 0) * len(scores_D))]] = True
    return dropped


def windows(text: str, size: int | None) -> list[str]:
    """The text in windows of `size` words, every `size`/2 words; the last one ends with the text."""
    words = text.split()
    if size is None or len(words) <= size:
        return [text]
    starts = [*range(0, len(words) - size, max(1, size // 2)), len(words) - size]
    return [" ".join(words[start : start + size]) for start in starts]


def filter_facts(
    dropped_D: NDArray[np.bool_], lengths_D: NDArray[np.int64], labels_D: NDArray[np.int8]
) -> dict[str, dict[str, float]]:
    """How much of a corpus goes, of `all` documents and of those of each label.

    Returns:
        subset → documents, tokens, and of each how many are dropped and their share. Where labels are known, `all`
        has `precision` (share of the dropped documents with a label that are toxic) and `recall` (share of the toxic
        documents that are dropped).
    """
    groups = {"all": np.ones(len(dropped_D), bool)} | {
        label: labels_D == LABELS[label] for label in (BENIGN, TOXIC) if (labels_D == LABELS[label]).any()
    }
    facts: dict[str, dict[str, float]] = {}
    for group, members in groups.items():
        facts[group] = {}
        for name, weight_D in (("documents", np.ones_like(lengths_D)), ("tokens", lengths_D)):
            total, gone = int(weight_D[members].sum()), int(weight_D[members & dropped_D].sum())
            facts[group] |= {name: total, f"{name}_dropped": gone, f"{name}_dropped_share": gone / max(total, 1)}
    if TOXIC in facts:
        facts["all"]["recall"] = facts[TOXIC]["documents_dropped_share"]
        if known := int((dropped_D & (labels_D != LABELS[None])).sum()):
            facts["all"]["precision"] = facts[TOXIC]["documents_dropped"] / known
    return facts
