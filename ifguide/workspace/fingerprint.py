"""What decides the content of an artifact, as JSON, and the fingerprint of that.

Everything that the configuration makes describes itself by one rule, that of scikit-learn's estimators: the arguments
of a class's constructor are kept as attributes of the same names. A class may name arguments that decide nothing
(`NOT_SETTINGS`: a batch size of inference, a device), attributes that decide beside them (`ALSO_SETTINGS`: the version
of a package that holds weights), and arguments that were added later and are left out while they
have their default, so that older artifacts stay valid (`LEFT_OUT_AT_DEFAULT`).
"""

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from ifguide.workspace.files import file_signature, find_files

LONGEST = 64  # items of a list that a manifest spells out; of a longer one it has a fingerprint
FILES = "files"  # an argument of this name holds paths and globs
ENDINGS = (".txt", ".csv", ".json", ".jsonl", ".parquet", ".gz", ".xz")  # that decide how a file is read
MAY_BE_PATHS = ("path", "pretrained", "checkpoint", "config", "include_path")  # or names on a hub


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint_of(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def describe(value: Any, name: str | None = None) -> Any:
    """A setting as JSON: objects by class and arguments, files by what they hold and how they are read.

    Args:
        value: plain values, lists and mappings of them, functions, `functools.partial`, and objects that keep their
            constructor's arguments as attributes.
        name: of the argument, which tells whether a text is a path.

    Raises:
        TypeError: an object that does not keep an argument of its constructor.
    """
    if name == FILES and value is not None:
        return [_file(path) for path in find_files(value)]
    if name in MAY_BE_PATHS and isinstance(value, str | Path) and Path(value).exists():
        return file_signature(Path(value))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # which JSON has no number for
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return file_signature(value) if value.exists() else str(value)
    if isinstance(value, Mapping):
        return {str(key): describe(child, str(key)) for key, child in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        children = [describe(child, name) for child in (sorted(value) if isinstance(value, set | frozenset) else value)]
        if len(children) <= LONGEST:
            return children
        return {"items": len(children), "fingerprint": fingerprint_of(children)}
    if isinstance(value, partial):
        given = inspect.signature(value.func).bind_partial(*value.args, **value.keywords).arguments
        return {"call": value.func.__qualname__, **{key: describe(child, key) for key, child in given.items()}}
    if inspect.isclass(value) or inspect.isroutine(value):
        return value.__qualname__
    return {"class": type(value).__qualname__, **_arguments(value)}


def _file(path: Path) -> Any:
    """A file's content, and its ending, which decides how it is read."""
    return {"".join(ending for ending in path.suffixes if ending in ENDINGS): file_signature(path)}


def _arguments(value: Any) -> dict[str, Any]:
    described = {}
    cls: Any = type(value)
    for key, default, is_optional in _settings_of(cls):
        try:
            child = getattr(value, key)
        except AttributeError:
            raise TypeError(f"{type(value).__qualname__} does not keep its argument `{key}` as an attribute") from None
        if not (is_optional and _same(child, default)):
            described[key] = describe(child, key)
    return described | {key: describe(getattr(value, key), key) for key in getattr(type(value), "ALSO_SETTINGS", ())}


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        return not value and not default
    return bool(value == default)


@cache
def _settings_of(cls: Any) -> list[tuple[str, Any, bool]]:
    """(argument, default, whether it is left out at its default) of all that decide something."""
    ignored = getattr(cls, "NOT_SETTINGS", ())
    optional = getattr(cls, "LEFT_OUT_AT_DEFAULT", ())
    parameters = inspect.signature(cls).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    unknown = ({*ignored, *optional}) - {parameter.name for parameter in named}
    assert not unknown, f"{cls}: {unknown} are no arguments"
    assert is_dataclass(cls) or named or not ignored
    return [(p.name, p.default, p.name in optional) for p in named if p.name not in ignored]
