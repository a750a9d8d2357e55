"""Records of files: `.jsonl` and `.parquet`, and the texts of `.txt`; whatever is wrong with a file is one line."""

import gzip
import json
import logging
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from ifguide.checks import listed, shortened
from ifguide.corpus.schema import Schema, is_one_of
from ifguide.hub import check_hub
from ifguide.workspace import find_files

READABLE = (".txt", ".jsonl", ".parquet")
COMPRESSED = {".gz": gzip.open, ".xz": lzma.open}
LONGEST_LINE, LONGEST_TEXT = 1 << 26, 1 << 28  # characters
READ_AT_ONCE = 1 << 20  # characters
MOST_EXPANDED, EXPANDED = 100, 1 << 26  # times the size of its file, or bytes, that what is packed may become
BATCH_BYTES = 1 << 26  # of rows that are made into records at once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
        place: file and line, or row.
        values: its fields.
        argument: of whoever reads, that named the file; a message begins with it.
    """

    place: str
    values: Mapping[str, Any]
    argument: str = "files"

    def mistake(self, message: str) -> ValueError:
        return ValueError(f"{self.argument}={self.place}: {message}")

    def get(self, field: str) -> Any:
        """Value of a field, nested ones as `prompt.text`; ValueError lists the known fields."""
        value: Any = self.values
        for part in field.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise self.mistake(f"no field `{field}`; the record has {listed(self.values)}")
            value = value[part]
        return value

    def read(self, schema: Schema, **fields: str | None) -> list[Any]:
        """What the fields hold, by the rules of a schema and in its order.

        Args:
            schema: entry → rule.
            fields: entry → field; None: this record has none, and None is returned.

        Raises:
            ValueError: a value breaks its rule.
        """
        found = []
        for entry, rule in schema.items():
            field = fields[entry]
            value = None if field is None else self.get(field)
            try:
                found.append(value if field is None else rule(value))
            except ValueError as error:
                given = "" if value is None else f": {shortened(value)}"
                raise self.mistake(f"`{field}` {error}{given}") from None
        return found

    def is_chosen(self, where: Mapping[str, Sequence[Any]] | None) -> bool:
        """Whether each field has one of its allowed values."""
        return all(self.has_one_of(field, allowed, f"where.{field}") for field, allowed in (where or {}).items())

    def has_one_of(self, field: str, allowed: Sequence[Any], name: str) -> bool:
        try:
            return is_one_of(self.get(field), allowed, name)
        except ValueError as error:
            raise self.mistake(f"`{field}` {error}") from None


def read_records(
    files: str | Path | Sequence[str | Path], *, text_field: str | None = None, separator: str | None = None
) -> Iterator[Record]:
    r"""The records of files, one file after the other.

    Args:
        files: paths or globs.
        text_field: the field that a text of a `.txt` file is; None: a `.txt` file has no records.
        separator: between the texts of a `.txt` file, where `\n` may stand for a line break; what is blank between two
            of them is no text. None: a file is one text.

    Raises:
        ValueError: no such file, an unknown format, a file that is not what its name says, a line that is not a JSON
            object, or a separator that occurs in no `.txt` file.
    """
    cut = None if not separator else separator.replace("\\r", "").replace("\\n", "\n")
    whole, is_cut = list[Path](), False
    for file in find_files(files):
        kind = next((suffix for suffix in reversed(file.suffixes) if suffix not in COMPRESSED), "")
        if kind not in READABLE:
            raise ValueError(f"files={file}: unknown format; text is read from {', '.join(READABLE)} (also .gz, .xz)")
        if kind == ".parquet":
            yield from _parquet_rows(file)
        elif kind == ".jsonl":
            for number, line in read_lines(file):
                if line.strip():
                    place = f"{file}:{number}"
                    yield Record(place, parse_line(line, place))
        elif text_field is None:
            raise ValueError(f"files={file}: a .txt file has no fields; records are read from .jsonl or .parquet")
        else:
            index = 0
            for index, text in enumerate(read_texts(file, cut)):
                if cut is None or text.strip():
                    place = f"{file}:{index + 1}" if cut == "\n" else f"{file}, document {index}"
                    yield Record(place, {text_field: text})
            is_cut = is_cut or index > 0
            whole += [file] if cut and not index else []
    if whole and not is_cut and cut != "\n":
        raise ValueError(f"separator={separator!r}: it occurs nowhere in {', '.join(map(str, whole[:3]))}")


def hub_records(path: str, configuration: str | None, *, split: str, streaming: bool = False) -> Iterator[Record]:
    """Records of a data set on the Hugging Face hub, or of a folder that it was copied to.

    Raises:
        ValueError: the hub does not answer, or may not be asked and its cache holds no such data set.
    """
    import datasets

    check_hub(path, "path")
    try:
        rows: Any = datasets.load_dataset(path, configuration, split=split, streaming=streaming)
    except ConnectionError as error:
        raise ValueError(f"path={path}: {_first_line(error)}; give a folder that it was copied to") from None
    values: Mapping[str, Any]
    for number, values in enumerate(rows):
        yield Record(f"{path}, {split} record {number}", values, "path")


def _parquet_rows(file: Path) -> Iterator[Record]:
    with reading(file):
        with pyarrow.parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"files={file}: two columns are called {listed(twice[:1])}")
            groups = map(opened.metadata.row_group, range(opened.metadata.num_row_groups))
            if sum(group.total_byte_size for group in groups) > most_expanded(file):
                raise expanded(file)
            columns = [opened.schema.column(number) for number in range(len(opened.schema))]
        # a text that many rows share is in the file once: as a dictionary's, it is in memory once, too
        texts = [one.path for one in columns if one.physical_type == "BYTE_ARRAY" and one.logical_type.type == "STRING"]
        with pyarrow.parquet.ParquetFile(file, read_dictionary=texts) as opened:
            rows = (row for batch in opened.iter_batches(batch_size=1000) for row in _rows_of(batch, file))
            for index, values in enumerate(rows):
                yield Record(f"{file}, row {index}", values)


def _rows_of(batch: pa.RecordBatch, file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a batch, fewer at once the larger they are."""
    if sum(map(_bytes_of, batch.columns)) <= BATCH_BYTES:
        yield from batch.to_pylist()
    elif len(batch) == 1:
        raise ValueError(f"files={file}: a row of more than {BATCH_BYTES >> 20} million bytes")
    else:
        half = len(batch) // 2
        yield from _rows_of(batch.slice(0, half), file)
        yield from _rows_of(batch.slice(half), file)


def _bytes_of(values: pa.Array) -> int:
    """Size of values, each counted as often as it occurs."""
    if pa.types.is_dictionary(values.type):
        lengths = pa.compute.binary_length(values.dictionary)
        return pa.compute.sum(lengths.take(values.indices)).as_py() or 0
    if pa.types.is_nested(values.type):
        children = values.flatten()
        return sum(map(_bytes_of, children if isinstance(children, list) else [children])) + 8 * len(values)
    return int(values.nbytes)


def most_expanded(file: Path) -> int:
    """Bytes that a packed file may become; far more than any text needs, far less than one made to fill the memory."""
    return max(EXPANDED, MOST_EXPANDED * file.stat().st_size)


def expanded(file: Path) -> ValueError:
    return ValueError(
        f"files={file}: its {file.stat().st_size:,} bytes become more than {most_expanded(file):,}; if they should, "
        "give it unpacked"
    )


def open_text(file: Path) -> TextIO:
    """Open a text, compressed or not; a byte-order mark is no part of it."""
    opener: Any = COMPRESSED.get(file.suffix, open)
    opened: TextIO = opener(file, "rt", encoding="utf-8-sig")
    return opened


def _pieces(file: Path, read: Callable[[TextIO], str]) -> Iterator[str]:
    """What is read of a text again and again, up to its end."""
    with reading(file), open_text(file) as opened:
        most = most_expanded(file)
        while piece := read(opened):
            if opened.buffer.tell() > most:
                raise expanded(file)
            yield piece


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1 on, and text of every line.

    Raises:
        ValueError: the file cannot be read, a line has no end, or it is packed and becomes far more than it is.
    """
    for number, line in enumerate(_pieces(file, lambda opened: opened.readline(LONGEST_LINE + 1)), start=1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"files={file}:{number}: a line of more than {LONGEST_LINE >> 20} million characters")
        yield number, line


def read_texts(file: Path, separator: str | None = None) -> Iterator[str]:
    """What stands between two separators; without one, the whole file.

    Raises:
        ValueError: the file cannot be read, a text has no end, or it is packed and becomes far more than it is.
    """
    rest, at_once = "", READ_AT_ONCE if separator else 16 * READ_AT_ONCE
    for piece in _pieces(file, lambda opened: opened.read(at_once)):
        *texts, rest = (rest + piece).split(separator) if separator else (rest + piece,)
        yield from texts
        if len(rest) > LONGEST_TEXT:
            raise ValueError(
                f"files={file}: a text of more than {LONGEST_TEXT >> 20} million characters; give the separator of "
                "its documents"
            )
    yield rest


def say_unlabelled(files: str | Sequence[str], field: str, count: int) -> None:
    """Say how many records nobody said what they are of, if there are such."""
    if count:
        log.warning("files=%s: %d records whose `%s` is null are left out", files, count, field)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Whatever is wrong with a file becomes a ValueError of one line that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"files={file}: it is not UTF-8 text (the byte {error.object[error.start]:#04x}); save it as UTF-8, or "
            "give it the suffix of what it is"
        ) from error
    except MemoryError as error:
        raise ValueError(f"files={file}: there is too little memory to read it; cut it into smaller files") from error
    except (EOFError, OSError, lzma.LZMAError, zlib.error, pa.ArrowException) as error:
        kind = "Parquet" if isinstance(error, pa.ArrowException) else file.suffix
        raise ValueError(
            f"files={file}: it is no whole {kind} file; it is cut, damaged or misnamed ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's fields; of two with one name the first would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two fields are called {listed([next(name for name in names if names.count(name) > 1)])}")
    return values


def parse_line(line: str, place: str) -> Mapping[str, Any]:
    """The JSON object of a line."""
    try:
        values = json.loads(line, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError(f"files={place}: not JSON that can be read (it is nested too deeply)") from None
    except ValueError as error:
        raise ValueError(f"files={place}: not JSON ({_first_line(error)})") from None
    if not isinstance(values, dict):
        raise ValueError(f"files={place}: a JSON object is expected, this is a {type(values).__name__}")
    return values
