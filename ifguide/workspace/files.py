"""Files: found by path or glob, known by what they hold, written so that a reader sees the old content or the new."""

import glob
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MANIFEST = "manifest.json"


def find_files(files: str | Path | Sequence[str | Path]) -> list[Path]:
    """Resolve paths and globs to files, sorted within each; a file that exists is that file, whatever its name holds.

    Raises:
        ValueError: a path or glob that matches no file, or a file that two of them are.
    """
    found: list[Path] = []
    for pattern in [files] if isinstance(files, str | Path) else files:
        place = Path(pattern).expanduser()
        if place.is_file():
            found.append(place)
            continue
        kept = [path for path in find_paths(place) if path.is_file()]
        if not kept and str(pattern).startswith("None/"):
            raise ValueError(
                f"{str(pattern)!r}: paths.datasets is not set; export IFGUIDE_DATASETS or pass paths.datasets=…"
            )
        if not kept and place.is_dir():
            raise ValueError(f"{str(pattern)!r} is a folder; name its files, as in {str(place / '*.jsonl')!r}")
        if not kept:
            raise ValueError(f"no file matches {str(pattern)!r} (looked from {Path.cwd()})")
        found += kept
    place_of, count = Counter(map(os.path.realpath, found)).most_common(1)[0] if found else ("", 0)
    if count > 1:
        raise ValueError(f"{place_of} is named, or matched, {count} times; name it once")
    return found


def find_paths(pattern: Path) -> list[Path]:
    """What a glob matches, sorted; the folders that it begins with are those that exist, whatever their names hold."""
    folder = next((parent for parent in pattern.parents if parent.is_dir()), pattern)
    if (rest := str(pattern.relative_to(folder))) == ".":
        return [pattern]
    return sorted(folder / name for name in glob.glob(rest, root_dir=folder, recursive=True))


def as_override(path: str | Path) -> str:
    """A path as a value on Hydra's command line, whatever characters it holds."""
    return "'" + str(path).replace("'", "\\'") + "'"


def file_signature(path: Path) -> Any:
    """What a file or folder holds, wherever it lies: content hashes, by name within a folder."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != MANIFEST)
        return {str(p.relative_to(path)): file_signature(p) for p in files}
    stat = path.stat()
    return _content_hash(path.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def _content_hash(path: Path, size: int, modified: int) -> str:
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def nearest_folder(path: Path) -> Path:
    """A path, or the nearest above it, that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that a reader sees either the old content or the new.

    JSON has no number that is not finite, as the perplexity of a collapsed model: such a one is written as null.
    """
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def finite(value: Any) -> Any:
    """A value of JSON with None in place of every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path` and rename into place: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def open_array(path: Path) -> NDArray[Any]:
    """An array of a `.npy` file, memory-mapped.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    with _numpy_file(path):
        array = np.load(path, mmap_mode="r")
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays")
        return array


def open_archive(path: Path, *needed: str) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file, which is not compressed: it holds no more than its size.

    Args:
        path: of the file.
        needed: names of arrays that it has.

    Raises:
        ValueError: the file is damaged or compressed, or lacks an array.
        OSError: it cannot be read.
    """
    content = BytesIO(path.read_bytes())
    with _numpy_file(path), np.load(content) as archive:
        if sum(one.file_size for one in archive.zip.infolist()) > path.stat().st_size:
            raise ValueError("it is compressed, or does not hold what it says")
        if missing := sorted({*needed} - {*archive.files}):
            raise ValueError(f"it lacks {', '.join(missing)}")
        return {name: archive[name] for name in archive.files}


@contextmanager
def _numpy_file(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file of arrays becomes a ValueError of one line.

    numpy has many words for it: a header is Python, and is parsed as such.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is no whole {path.suffix} file ({' '.join(str(error).split())})") from error
