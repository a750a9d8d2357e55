"""Checks of plain arguments that many rooms share; a message begins with the argument's name."""

import re
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

LARGEST_SEED = 2**32 - 1
LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 60
BEGINS_WITH_ARGUMENT = re.compile(r"\w+(?=[=.:])")  # that a message begins with


@contextmanager
def argument(name: str) -> Iterator[None]:
    """What is said of an argument's own arguments, `batch_size=0: …`, becomes `optim.batch_size=0: …`."""
    try:
        yield
    except ValueError as error:
        if not BEGINS_WITH_ARGUMENT.match(str(error)):
            raise
        raise type(error)(f"{name}.{error}") from error


def check_whole_number(name: str, value: object, *, least: int) -> None:
    """Raise ValueError unless a value is a whole number, not below the least."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name}={value}: it is a whole number, {least} or more")


def check_limit(value: object, name: str = "limit") -> None:
    """Raise ValueError unless a value is None, for no limit, or a whole number from 1 up."""
    if value is not None:
        check_whole_number(name, value, least=1)


def check_seed(value: object) -> None:
    """Raise ValueError unless a value is a seed of all that draws: what is made of it has to be one too (`torch` knows
    none above 2⁶⁴)."""
    if type(value) is not int or not 0 <= value <= LARGEST_SEED:
        raise ValueError(f"seed={value}: it is a whole number from 0 to {LARGEST_SEED}")


def check_number(name: str, value: object, *, least: float = -inf, above: float = -inf) -> None:
    """Raise ValueError unless a value is a finite number of float32, not below the least and above another one."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT32
    if not number or value < least or value <= above:  # type: ignore[operator]
        bound = f", {least:g} or more" if least > -inf else f" above {above:g}" if above > -inf else ""
        raise ValueError(f"{name}={value}: it is a finite number{bound}")


def shortened(value: Any) -> str:
    """A value in a line, and not in a long one."""
    return SHORT.repr(value)


def listed(names: Iterable[Any]) -> str:
    """Names in a line, whatever they hold."""
    shown = [str(name) if str(name).isprintable() and len(str(name)) <= 60 else shortened(str(name)) for name in names]
    return ", ".join([*shown[:50], *["…"] * (len(shown) > 50)])
