"""Control tokens (conditional training; Korbak et al., 2023): each segment of the training text is preceded by one of
two reserved tokens, good or bad as a classifier finds it.

The good one then stands before what is sampled. Held-out text is measured so, too: the good token stands before every
document, and nowhere else. Before every sentence it would tell where the one before ends, which no other model is told.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ifguide.checks import check_seed
from ifguide.classifiers import Classifier, ClassifierSettings
from ifguide.classifiers.base import TOXICITY, of_category
from ifguide.corpus.blocks import Split
from ifguide.corpus.filters import DOCUMENTS_AT_ONCE, check_rule, drop_highest
from ifguide.corpus.insertion import Insertion
from ifguide.corpus.offsets import TokenOffsets
from ifguide.corpus.repacking import document_tokens
from ifguide.corpus.tokenizers import faithful

GOOD, BAD = "good", "bad"
KINDS = (GOOD, BAD)
UNTAGGED = -1
SENTENCE_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|(?=\n)""")

# K segments of a split, D documents


@dataclass(frozen=True, kw_only=True)
class ControlTokens:
    """Puts a control token before each segment of the training text.

    Args:
        classifier: who judges.
        category: the category that counts.
        unit: what a segment is: `sentence` (up to a full stop, a question or exclamation mark before a blank, or to the
            end of a line) or `document`.
        threshold: segments from this probability on are bad; or
        share: this share of all segments, the most toxic ones.
        untagged: share of the segments that get no token.
        seed: of which those are.
        good, bad: the tokens: new ones, or special tokens that the tokenizer has in reserve.

    Raises:
        ValueError: an argument out of range, or not exactly one of `threshold` and `share`.
    """

    rule: ClassVar = ("threshold", "share", "untagged", "seed", "good", "bad")
    reads: ClassVar = "segments"

    classifier: ClassifierSettings
    category: str = TOXICITY
    unit: Literal["sentence", "document"] = "sentence"
    threshold: float | None = 0.5
    share: float | None = None
    untagged: float = 0.01
    seed: int = 0
    good: str = "<|good|>"
    bad: str = "<|bad|>"

    def __post_init__(self) -> None:
        check_rule(self.threshold, self.share)
        check_seed(self.seed)
        if self.unit not in ("sentence", "document"):
            raise ValueError(f"unit={self.unit}: known: sentence, document")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: a probability lies in [0, 1]")
        if not 0 <= self.untagged < 1:
            raise ValueError(f"untagged={self.untagged}: a share in [0, 1)")
        if not self.good or not self.bad or self.good == self.bad:
            raise ValueError(f"good={self.good}: it and bad={self.bad} are two different tokens")

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Raise ValueError where a control token stands for something else already."""
        taken = {tokenizer.eos_token: "ends a text", tokenizer.bos_token: "begins a text"}
        words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
        for kind, token in zip(KINDS, (self.good, self.bad), strict=True):
            if token in taken or token in words:
                use = taken.get(token, "is written in texts")
                raise ValueError(f"{kind}={token}: the tokenizer's token of this name {use}; choose another name")

    def scores(self, texts: Iterator[list[str]], classifier: Classifier) -> NDArray[np.float64]:
        """Probability of each segment, [K].

        Args:
            texts: the segments of one document after the other.
            classifier: loaded.

        Raises:
            ValueError: the classifier has no such category.
        """
        each, parts = chain.from_iterable(texts), [np.zeros(0)]
        while batch := list(islice(each, DOCUMENTS_AT_ONCE)):
            parts.append(of_category(classifier, batch, self.category))
        return np.concatenate(parts)

    def kinds(self, scores_K: NDArray[np.float64]) -> NDArray[np.int64]:
        """The kind of each segment's token, a place in `KINDS`, or `UNTAGGED`."""
        kinds = drop_highest(scores_K, threshold=self.threshold, share=self.share).astype(np.int64)
        kinds[np.random.default_rng(self.seed).random(len(kinds)) < self.untagged] = UNTAGGED
        return kinds


def sentence_starts(text: str) -> list[int]:
    """Where the sentences of a text begin: behind the mark that ends the one before, with the blank between them."""
    starts, last = [0], len(text.rstrip())
    for match in SENTENCE_END.finditer(text):
        if match.end() < last and text[starts[-1] : match.end()].strip():
            starts.append(match.end())
    return starts


def segments(
    split: Split, tokenizer: PreTrainedTokenizerFast, unit: str
) -> Iterator[tuple[NDArray[np.int64], list[str]]]:
    """The segments of one document after the other: position of their first tokens in the stream, and their texts.

    A segment begins with a token: one that lies across the border of two sentences belongs to the first.
    """
    read, position = TokenOffsets(tokenizer), 0
    for tokens in document_tokens(split):
        words = tokens[:-1] if len(tokens) and tokens[-1] == tokenizer.eos_token_id else tokens
        text, offsets = read(words)
        begins = offsets[:, 0]
        starts = sentence_starts(text) if unit == "sentence" else [0]
        first = np.unique(np.searchsorted(begins, starts))
        first = first[first < max(1, len(words))]
        edges = [*(begins[first].tolist() if len(words) else [0]), len(text)]
        yield position + first, [text[a:b] for a, b in pairwise(edges)]
        position += len(tokens)


def tags(starts_K: NDArray[np.int64], kinds_K: NDArray[np.int64], ids: Sequence[int]) -> Insertion:
    """The tokens that stand before segments.

    Args:
        starts_K: positions of their first tokens.
        kinds_K: as `ControlTokens.kinds`.
        ids: of the tokens, in the order of `KINDS`.
    """
    tagged = kinds_K != UNTAGGED
    return Insertion(starts_K[tagged], np.array(ids, np.int32)[kinds_K[tagged]])


def good_documents(split: Split, ids: Sequence[int]) -> Insertion:
    """The good token before every document."""
    starts = np.asarray(split.documents["start"], np.int64)
    return Insertion(starts, np.full(len(starts), ids[KINDS.index(GOOD)], np.int32))


def named_tokenizer(folder: Path, good: str, bad: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder with both control tokens, new or in reserve, as its `good_token` and `bad_token`."""
    names = {f"{kind}_token": token for kind, token in zip(KINDS, (good, bad), strict=True)}
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, extra_special_tokens=names)
    return faithful(tokenizer)  # type: ignore[arg-type]


def control_ids(tokenizer: PreTrainedTokenizerFast) -> list[int] | None:
    """Ids of a tokenizer's control tokens, in the order of `KINDS`; None where it has none."""
    ids = [getattr(tokenizer, f"{kind}_token_id", None) for kind in KINDS]
    return None if None in ids else [int(id) for id in ids if id is not None]
