"""Whether what a configuration gives an argument is of the argument's type, before anything is made of it."""

import types
from collections.abc import Iterable, Mapping
from functools import cache
from inspect import isclass
from math import isnan
from os import PathLike
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ifguide.checks import shortened

OURS = "ifguide"  # whose annotations are meant so
MISSING = "???"  # which Hydra names itself
PLAIN = {bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}
TEXT, LIST, NAMES, MADE = "text", "a list, as in [a,b]", "names with their values", "made of settings, with a _target_"


def mistyped(target: Any, given: Mapping[str, Any]) -> dict[str, str]:
    """Argument that a configuration gives a class or function another type of value than it takes, None where there has
    to be one, or no number → `value: what it is`. What is nested in a value is left out.

    Args:
        target: of another package than this one, nothing is.
        given: argument → value, as YAML has it.
    """
    if not target.__module__.startswith(f"{OURS}."):
        return {}
    hints = {name: hint for name, hint in hints_of(target).items() if given.get(name, MISSING) != MISSING}
    return {
        name: f"{as_typed(given[name])}: it is {' or '.join(dict.fromkeys(rules(hint)))}"
        for name, hint in hints.items()
        if not fits(given[name], hint)
    }


@cache
def hints_of(target: Any) -> Mapping[str, Any]:
    """Argument → its type."""
    return get_type_hints(target.__init__) if isclass(target) else get_type_hints(target)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of YAML is of a type. A whole number is a number, too, a number may be text, and what has a
    `_target_` is taken for what it makes; a group's empty option is None."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint is type(None):
        return value is None or value == {}
    if hint in PLAIN:
        kinds = (int, float) if hint is float else (hint,)
        return type(value) in kinds and not (hint is float and isnan(value))
    if hint in (Any, object) or not isinstance(origin or hint, type):
        return True  # variables too
    kind: type = origin or hint
    made = isinstance(value, Mapping) and "_target_" in value
    if kind is str or issubclass(kind, PathLike):
        return isinstance(value, str | int | float)
    if made:
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(fits(one, inner[1]) for one in value.values() if inner)
    if kind.__module__.startswith(OURS):
        return False
    if issubclass(kind, Iterable):
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value if inner)
    return value is not None


def rules(hint: Any) -> list[str]:
    """What a value may be."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return [rule for one in inner for rule in rules(one)]
    if origin is Literal:
        return [str(one) for one in inner]
    kind = origin or hint
    if hint in PLAIN:
        return [PLAIN[hint]]
    if kind is str or issubclass(kind, PathLike):
        return [TEXT]
    if issubclass(kind, Mapping):
        return [NAMES]
    return [LIST if issubclass(kind, Iterable) and not kind.__module__.startswith(OURS) else MADE]


def as_typed(value: Any) -> str:
    """A value as a user types it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return value if isinstance(value, str) and len(value) <= 60 else shortened(value)
