"""Where documents come from: local files and hub data sets (the built-in sample is in `sample.py`)."""

import gzip
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TextIO

import pyarrow.parquet

from ifguide.corpus.documents import BENIGN, TOXIC, Document
from ifguide.workspace import find_files

READABLE = (".txt", ".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class LocalSource:
    """Documents from `.txt`, `.jsonl` (each also `.gz` or `.xz`) and `.parquet` files.

    Args:
        files: a path or glob, or several; resolved in sorted order.
        field: the field of a record that holds its text (nested fields as `prompt.text`); ignored for `.txt`.
        label: `benign`, `toxic`, or None where it is not known.
        where: field → allowed values; other records are left out.
        spans: field that holds toxic character positions, as [start, end] pairs or as single offsets.
        separator: text between the documents of a `.txt` file; None: one document per file.
        limit: keep the first records only.
        skip_empty: leave out records without text instead of stopping.
        name: name of the source in the document index.

    Raises:
        ValueError: no such file, unknown format or label, missing or empty text field.
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
        if self.label not in (BENIGN, TOXIC, None):
            raise ValueError(f"label={self.label!r}: a label is {BENIGN}, {TOXIC} or null")
        if not self.field:
            raise ValueError(f"field={self.field!r}: name the field of a record that holds its text")
        find_files(self.files)

    def __iter__(self) -> Iterator[Document]:
        count = 0
        for record, (place, values) in enumerate(self._records()):
            if any(get_field(values, key, place) not in allowed for key, allowed in (self.where or {}).items()):
                continue
            text = get_field(values, self.field, place)
            if not isinstance(text, str) or not text.strip():
                if self.skip_empty:
                    continue
                raise ValueError(
                    f"{place}: the text field `{self.field}` is empty; remove the record or set skip_empty=true"
                )
            spans = None if self.spans is None else merge_spans(get_field(values, self.spans, place) or [], len(text))
            yield Document(text, self.name, record, self.label, spans)
            count += 1
            if count == self.limit:
                return
        if count == 0:
            raise ValueError(f"source {self.name}: no document in {', '.join(map(str, find_files(self.files)))}")

    def _records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for file in find_files(self.files):
            yield from read_records(file, separator=self.separator, text_field=self.field)


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
    """

    NOT_SETTINGS: ClassVar = ("streaming",)

    path: str
    field: str = "text"
    configuration: str | None = None
    split: str = "train"
    streaming: bool = True
    label: str | None = None
    limit: int | None = None
    name: str = "hub"

    def __iter__(self) -> Iterator[Document]:
        import datasets

        rows = datasets.load_dataset(self.path, self.configuration, split=self.split, streaming=self.streaming)
        count = 0
        for record, values in enumerate(rows):
            text = get_field(values, self.field, f"{self.path}, record {record}")
            if not text.strip():
                continue
            yield Document(text, self.name, record, self.label)
            count += 1
            if count == self.limit:
                return


def read_records(
    file: Path, *, separator: str | None = None, text_field: str = "text"
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place for error messages, record) for each record of a file.

    Raises:
        ValueError: an unknown file format, or a line that is not a JSON object.
    """
    suffixes = [s for s in file.suffixes if s not in (".gz", ".xz")]
    kind = suffixes[-1] if suffixes else ""
    if kind == ".parquet":
        index = 0
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1000):
            for values in batch.to_pylist():
                yield f"{file}, row {index}", values
                index += 1
    elif kind == ".jsonl":
        with open_text(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{file}:{number}", parse_line(line, f"{file}:{number}")
    elif kind == ".txt":
        with open_text(file) as lines:
            content = lines.read()
        for index, text in enumerate(content.split(separator) if separator else [content]):
            yield f"{file}, document {index}", {text_field: text}
    else:
        raise ValueError(f"{file}: unknown format; text is read from {', '.join(READABLE)} (also .gz, .xz)")


def open_text(file: Path) -> TextIO:
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(file.suffix, open)
    opened: TextIO = opener(file, "rt", encoding="utf-8")
    return opened


def parse_line(line: str, place: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{place}: a JSON object is expected, this is a {type(values).__name__}")
    return values


def get_field(values: Mapping[str, Any], field: str, place: str) -> Any:
    """Value of a field, nested ones as `prompt.text`; ValueError lists the known fields."""
    value: Any = values
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"{place}: no field `{field}`; the record has {', '.join(values)}")
        value = value[part]
    return value


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
