"""Where documents come from: local files and hub data sets (the built-in sample is in `sample.py`)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from ifguide.checks import check_limit
from ifguide.corpus.documents import BENIGN, TOXIC, Document
from ifguide.corpus.records import hub_records, read_records
from ifguide.corpus.schema import DOCUMENT
from ifguide.workspace import find_files

EXPANDED = {".gz": 2.8, ".xz": 3.4, ".parquet": 2.0}  # bytes of text for each byte of a compressed file of English
READ = 200  # documents that an estimate of a source's size reads


@dataclass(frozen=True, kw_only=True)
class LocalSource:
    r"""Documents from `.txt`, `.jsonl` (each also `.gz` or `.xz`) and `.parquet` files.

    Args:
        files: a path or glob, or several; resolved in sorted order.
        field: the field of a record that holds its text (nested fields as `prompt.text`); ignored for `.txt`.
        label: `benign`, `toxic`, or None where it is not known.
        where: field → allowed values; other records are left out.
        spans: field that holds toxic character positions, as [start, end] pairs or as single offsets.
        separator: text between the documents of a `.txt` file, in which `\n` may stand for a line break; None: one
            document per file.
        limit: keep the first records only.
        skip_empty: leave out records without text instead of stopping.
        name: name of the source in the document index.

    Raises:
        ValueError: no such file, unknown format or label, a limit below 1; when read, a field that is missing or breaks
            its rule.
    """

    files: str | Sequence[str]
    field: str = "text"
    label: str | None = None
    where: Mapping[str, Sequence[Any]] | None = None
    spans: str | None = None
    separator: str | None = None
    limit: int | None = None
    skip_empty: bool = False
    name: str = "local"

    def __post_init__(self) -> None:
        _check_label(self.label)
        if not self.field:
            raise ValueError(f"field={self.field!r}: name the field of a record that holds its text")
        check_limit(self.limit)
        find_files(self.files)

    def __iter__(self) -> Iterator[Document]:
        count = 0
        rows = read_records(self.files, separator=self.separator, text_field=self.field)
        for record, row in enumerate(rows):
            if not row.is_chosen(self.where):
                continue
            text, spans = row.read(DOCUMENT, text=self.field, spans=self.spans)
            if not (text or "").strip():
                if self.skip_empty:
                    continue
                empty = "null" if text is None else "empty"
                raise row.mistake(f"`{self.field}` is {empty}; remove the record or set skip_empty=true")
            marked = None if self.spans is None else merge_spans(spans, len(text))
            yield Document(text, self.name, record, self.label, marked)
            count += 1
            if count == self.limit:
                return
        if count == 0:
            raise ValueError(f"files={self.files}: there is no document in it for the source {self.name}")

    @property
    def annotates(self) -> bool:
        """Whether its documents have spans."""
        return self.spans is not None

    def estimate(self, characters: float) -> tuple[float, float]:
        """About how many tokens, and documents, it has: by the sizes of its files and its first documents.

        Args:
            characters: of a token.
        """
        files = find_files(self.files)
        total = sum(file.stat().st_size * EXPANDED.get(file.suffix, 1.0) for file in files)
        lengths = [len(document.text) for document in islice(self, READ)]
        mean = sum(lengths) / len(lengths)
        documents = total / mean if len(lengths) == READ else float(len(lengths))
        documents = documents if self.limit is None else min(documents, self.limit)
        return documents * (mean / characters + 1), documents


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Documents of a data set on the Hugging Face hub, streamed unless told otherwise.

    Args:
        path: name of the data set, as in `Skylion007/openwebtext`.
        field: the field that holds the text.
        configuration: name of its configuration, if it has several.
        split: its split.
        streaming: read it as it arrives instead of downloading all of it first.
        label, limit, name: as in `LocalSource`.
        mean_tokens: of a document, for an estimate of what it would cost (`stage=plan`); None: nobody knows.

    Raises:
        ValueError: an unknown label, a limit below 1; when read, a field that is missing or breaks its rule.
    """

    NOT_SETTINGS: ClassVar = ("streaming", "mean_tokens")

    path: str
    field: str = "text"
    configuration: str | None = None
    split: str = "train"
    streaming: bool = True
    label: str | None = None
    limit: int | None = None
    name: str = "hub"
    mean_tokens: float | None = None

    def __post_init__(self) -> None:
        _check_label(self.label)
        check_limit(self.limit)

    def estimate(self, characters: float) -> tuple[float, float] | None:
        """As of `LocalSource`, by its limit; None where that, or the length of its documents, is not known."""
        if self.limit is None or self.mean_tokens is None:
            return None
        return self.limit * self.mean_tokens, float(self.limit)

    def __iter__(self) -> Iterator[Document]:
        count = 0
        rows = hub_records(self.path, self.configuration, split=self.split, streaming=self.streaming)
        for record, row in enumerate(rows):
            text, _ = row.read(DOCUMENT, text=self.field, spans=None)
            if not (text or "").strip():
                continue
            yield Document(text, self.name, record, self.label)
            count += 1
            if count == self.limit:
                return


def _check_label(label: str | None) -> None:
    if label not in (BENIGN, TOXIC, None):
        raise ValueError(f"label={label!r}: a label is {BENIGN}, {TOXIC} or null")


def merge_spans(spans: Iterable[int | Sequence[int]], length: int) -> tuple[tuple[int, int], ...]:
    """Half-open, sorted, non-overlapping character ranges from [start, end] pairs or single offsets."""
    pairs = sorted((s, s + 1) if isinstance(s, int) else (s[0], s[1]) for s in spans)
    merged: list[tuple[int, int]] = []
    for start, end in ((max(0, a), min(length, b)) for a, b in pairs):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)
