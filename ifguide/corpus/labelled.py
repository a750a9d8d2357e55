"""Texts that somebody judged: labelled ones to learn from, and scored ones to look up."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from ifguide.corpus.blocks import DOCUMENT_ROW, Split
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.sources import get_field, read_records
from ifguide.corpus.tokenizers import beginning_of_text
from ifguide.workspace import find_files


@dataclass(frozen=True, kw_only=True)
class LabelledSource:
    """Labelled texts of jsonl or parquet files; texts without words and repetitions of a text are left out.

    Args:
        files: files or globs.
        text, label: fields of a record, nested ones as `continuation.toxicity`.
        positive: values of the label that mean toxic; every other value means not. Or
        at_least: the label is a number, and this or more means toxic. With neither, the label is itself a toxicity in
            [0, 1].
        where: field → allowed values; other records are left out.
        limit: keep the first texts only.

    Raises:
        ValueError: no such file; both of `positive` and `at_least`; a field that is not there; a label that is no
            number, or no toxicity, where one is needed; no text at all. A record whose label is null is left out.
    """

    files: str | Sequence[str]
    text: str = "text"
    label: str = "label"
    positive: Sequence[Any] | None = None
    at_least: float | None = None
    where: Mapping[str, Sequence[Any]] | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        find_files(self.files)
        if self.positive is not None and self.at_least is not None:
            raise ValueError(
                f"positive={list(self.positive)}, at_least={self.at_least}: give one of `positive` (values that mean "
                "toxic) and `at_least`"
            )

    def __iter__(self) -> Iterator[LabelledText]:
        seen: set[str] = set()
        for file in find_files(self.files):
            for place, values in read_records(file):
                if any(get_field(values, key, place) not in allowed for key, allowed in (self.where or {}).items()):
                    continue
                text, label = get_field(values, self.text, place), get_field(values, self.label, place)
                if label is None or not isinstance(text, str) or not text.strip() or text in seen:
                    continue
                seen.add(text)
                yield LabelledText(text, self._toxicity(label, place))
                if len(seen) == self.limit:
                    return
        if not seen:
            raise ValueError(f"no labelled text in {', '.join(map(str, find_files(self.files)))}")

    def _toxicity(self, label: Any, place: str) -> float:
        if self.positive is not None:
            return float(label in self.positive)
        try:
            number = float(label)
        except (TypeError, ValueError):
            raise ValueError(f"{place}: `{self.label}` is {label!r}: without `positive` it is a number") from None
        if self.at_least is not None:
            return float(number >= self.at_least)
        if not 0 <= number <= 1:
            raise ValueError(
                f"{place}: {self.label}={label!r} is no toxicity in [0, 1]; name toxic values in `positive`"
            )
        return number


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that only the text decides: those below p are a fixed sample of a share p."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """Scores of texts that were made elsewhere, in jsonl or parquet files.

    Args:
        files: files or globs.
        text: field of the text.
        categories: category → field of its score, nested ones as `attributes.TOXICITY`.

    Raises:
        ValueError: no such file; when read, a missing field or score, or a text with two different scores.
    """

    files: str | Sequence[str]
    text: str = "text"
    categories: Mapping[str, str]

    def __post_init__(self) -> None:
        find_files(self.files)

    def read(self) -> dict[str, dict[str, float]]:
        """Text → category → score."""
        scores: dict[str, dict[str, float]] = {}
        for file in find_files(self.files):
            for place, values in read_records(file):
                text = get_field(values, self.text, place)
                found = {category: get_field(values, field, place) for category, field in self.categories.items()}
                if missing := [category for category, score in found.items() if not isinstance(score, int | float)]:
                    raise ValueError(f"{place}: the score of {', '.join(missing)} is no number")
                if scores.setdefault(text, found) != found:
                    raise ValueError(f"{place}: this text has two different scores: {text[:60]!r}")
        return scores


def check_labelled(texts: Sequence[LabelledText]) -> None:
    """Raise ValueError unless there are texts on both sides of 0.5."""
    toxic = sum(labelled.toxic for labelled in texts)
    if toxic in (0, len(texts)):
        raise ValueError(
            f"labelled: {toxic} of {len(texts)} texts are toxic; both kinds are needed, check `label` and `positive`"
        )


def encode_texts(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int | None = None,
    config: PreTrainedConfig | None = None,
) -> list[NDArray[np.int64]]:
    """Token ids of each text between what a text begins after (`beginning_of_text`) and the end-of-text token, the
    first `max_length` of them."""
    start, end = beginning_of_text(tokenizer, config), tokenizer.eos_token_id
    encodings = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [np.array([start, *encoding.ids, end][:max_length], dtype=np.int64) for encoding in encodings]


def pack_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, block_length: int) -> Split:
    """Texts, each followed by the end-of-text token, as blocks in memory; an incomplete last block is left out."""
    pieces = [ids[1:] for ids in encode_texts(texts, tokenizer)]
    flat = np.concatenate([np.zeros(0, np.int64), *pieces]).astype(np.int32)
    count = len(flat) // block_length
    values = pa.FixedSizeListArray.from_arrays(pa.array(flat[: count * block_length]), block_length)
    lengths = np.array([len(piece) for piece in pieces])
    rows = np.zeros(len(pieces), dtype=DOCUMENT_ROW)
    rows["start"], rows["record"], rows["label"] = np.cumsum(lengths) - lengths, np.arange(len(pieces)), -1
    return Split(Dataset(pa.table({"input_ids": values})), rows[rows["start"] < count * block_length], None)
