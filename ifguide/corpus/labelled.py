"""Texts that somebody judged: labelled ones to learn from, and scored ones to look up."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from ifguide.checks import check_limit, shortened
from ifguide.corpus.blocks import DOCUMENT_ROW, Split
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.records import read_records, say_unlabelled
from ifguide.corpus.schema import LABELLED, TEXT, Classes, Number, Rule, Schema
from ifguide.corpus.tokenizers import beginning_of_text
from ifguide.workspace import find_files

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelledSource:
    """Labelled texts of jsonl or parquet files; texts without words and repetitions of a text are left out.

    Args:
        files: files or globs.
        text, label: fields of a record, nested ones as `continuation.toxicity`.
        positive: values of the label that mean toxic.
        negative: values that mean not; None: every other one. Or
        at_least: the label is a number, and this or more means toxic. With neither, the label is itself a toxicity in
            [0, 1].
        where: field → allowed values; other records are left out.
        limit: keep the first texts only.

    Raises:
        ValueError: no such file; a limit below 1; both of `positive` and `at_least`; when read, a field that is missing
            or breaks its rule; a label that is in neither list, or differs from a value of one in case, blanks or type
            alone; no positive label; a label that is no finite number, or no toxicity, where one is needed; no text at
            all. Records whose label is null are left out, and how many is said.
    """

    LEFT_OUT_AT_DEFAULT: ClassVar = ("negative",)

    files: str | Sequence[str]
    text: str = "text"
    label: str = "label"
    positive: Sequence[Any] | None = None
    negative: Sequence[Any] | None = None
    at_least: float | None = None
    where: Mapping[str, Sequence[Any]] | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        find_files(self.files)
        check_limit(self.limit)
        if self.positive is not None and self.at_least is not None:
            raise ValueError(
                f"positive={list(self.positive)}, at_least={self.at_least}: give one of `positive` (values that mean "
                "toxic) and `at_least`"
            )

        if self.negative is not None and self.positive is None:
            raise ValueError(f"negative={list(self.negative)}: values that mean toxic go into `positive`")
        if self.at_least is not None and not isfinite(self.at_least):
            raise ValueError(f"at_least={self.at_least}: a finite number")

    def __iter__(self) -> Iterator[LabelledText]:
        texts: dict[str, tuple[str, Any]] = {}  # text → place and label
        complete, unlabelled, differing = True, 0, 0
        for row in read_records(self.files):
            if not row.is_chosen(self.where):
                continue
            text, label = row.read({**LABELLED, "label": self._rule}, text=self.text, label=self.label)
            unlabelled += label is None
            if label is None or not (text or "").strip():
                continue
            if text in texts:
                differing += texts[text][1] != label
                continue
            texts[text] = row.place, label
            if len(texts) == self.limit:
                complete = False
                break
        say_unlabelled(self.files, self.label, unlabelled)
        if differing:
            log.warning(
                "files=%s: %d records repeat a text with another label: the first one counts", self.files, differing
            )
        if not texts:
            raise ValueError(f"files={self.files}: there is no labelled text in it")
        labels = list(texts.values())
        if self.positive is not None:
            toxic = Classes(self.positive, self.negative).of(self.label, labels, complete=complete)
            values = [float(one) for one in toxic]
        elif self.at_least is not None:
            values = [float(label >= self.at_least) for _, label in labels]
        else:
            values = [float(label) for _, label in labels]
        yield from map(LabelledText, texts, values)

    @property
    def _rule(self) -> Rule:
        """Of the label."""
        if self.positive is not None:
            return LABELLED["label"]
        hint = "; name values that mean toxic in `positive`"
        bounds = {"least": 0, "most": 1} if self.at_least is None else {}
        return Number(**bounds, loose=True, null=True, hint=hint)


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
        ValueError: no such file; when read, a field that is missing, a score that is no number in [0, 1], or a text
            with two different scores.
    """

    files: str | Sequence[str]
    text: str = "text"
    categories: Mapping[str, str]

    def __post_init__(self) -> None:
        find_files(self.files)

    def read(self) -> dict[str, dict[str, float]]:
        """Text → category → score."""
        scores: dict[str, dict[str, float]] = {}
        fields = {f"score of {category}": field for category, field in self.categories.items()}
        schema: Schema = {**TEXT, **dict.fromkeys(fields, Number(least=0, most=1))}
        for row in read_records(self.files):
            text, *values = row.read(schema, text=self.text, **fields)
            found = dict(zip(self.categories, values, strict=True))
            if scores.setdefault(text, found) != found:
                raise row.mistake(f"this text has two different scores: {shortened(text)}")
        return scores


def check_labelled(texts: Sequence[LabelledText]) -> None:
    """Raise ValueError unless there are texts on both sides of 0.5."""
    toxic = sum(labelled.toxic for labelled in texts)
    if toxic in (0, len(texts)):
        raise ValueError(
            f"{toxic} of {len(texts)} labelled texts are positive; both kinds are needed, check `label` and `positive` "
            "of `labelled`"
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
