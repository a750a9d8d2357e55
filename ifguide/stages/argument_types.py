"""Whether what a configuration gives an argument is of the argument's type, before anything is made of it."""

import json
import types
from collections.abc import Iterable, Mapping
from functools import cache
from inspect import isclass
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
    if not is_ours(target):
        return {}
    hints = {name: hint for name, hint in hints_of(target).items() if given.get(name, MISSING) != MISSING}
    return {
        name: f"{as_typed(given[name])}: it is {rule_of(hint)}"
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
    inner, rule = get_args(hint), rule_of(hint)
    if rule is None:
        return True
    if is_union(hint):
        return any(fits(value, one) for one in inner)
    if get_origin(hint) is Literal:
        return value in inner
    if hint is type(None):
        return value is None or value == {}
    if hint in PLAIN:
        return type(value) in ((int, float) if hint is float else (hint,)) and value == value  # nan is not
    if rule == TEXT:
        return isinstance(value, str | int | float)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if rule == NAMES:
        return isinstance(value, Mapping) and all(fits(one, inner[1]) for one in value.values() if inner)
    if rule == LIST:
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value if inner)
    return value is not None and not is_ours(get_origin(hint) or hint)


def rule_of(hint: Any) -> str | None:
    """What a value of a type is, in words; None: anything."""
    kind = get_origin(hint) or hint
    if is_union(hint):
        words = [rule_of(one) for one in get_args(hint)]
        return None if None in words else " or ".join(dict.fromkeys(filter(None, words)))
    if kind is Literal:
        return " or ".join(map(str, get_args(hint)))
    if hint in PLAIN:
        return PLAIN[hint]
    if kind in (Any, object) or not isclass(kind):
        return None
    if kind is str or issubclass(kind, PathLike):
        return TEXT
    if issubclass(kind, Mapping):
        return NAMES
    return LIST if issubclass(kind, Iterable) and not is_ours(kind) else MADE


def is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def is_ours(target: Any) -> bool:
    return f"{target.__module__}.".startswith(f"{OURS}.")


def as_typed(value: Any) -> str:
    """A value as a user types it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return value if isinstance(value, str) and len(value) <= 60 else shortened(value)
