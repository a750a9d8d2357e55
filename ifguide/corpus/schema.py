"""What a record's fields hold: a schema for each kind of record.

A schema is entry → rule. A rule takes a value, and returns what it is read as or raises ValueError saying what is
wrong. Which field of a file an entry is, its reader decides (`Record.read`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from ifguide.checks import shortened

Rule = Callable[[Any], Any]
Schema = Mapping[str, Rule]


@dataclass(frozen=True)
class Text:
    """Text that UTF-8 can write; with `blank`, white space alone will do; with `null`, so does null."""

    blank: bool = False
    null: bool = False

    def __call__(self, value: Any) -> str | None:
        if value is None and self.null:
            return None
        if not isinstance(value, str):
            raise ValueError(f"is {kind_of(value)}, not text")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            half = value[error.start]
            raise ValueError(f"has half a character at {error.start} ({half!r}, a lone surrogate)") from None
        if not self.blank and not value.strip():
            raise ValueError("is empty")
        return value


@dataclass(frozen=True)
class Number:
    """A finite number in [least, most].

    With `loose`, also true and false, and numbers that are written as text; with `null`, also null.
    """

    least: float = -inf
    most: float = inf
    loose: bool = False
    null: bool = False
    hint: str = ""

    def __call__(self, value: Any) -> float | None:
        if value is None and self.null:
            return None
        number: Any = value
        if self.loose and isinstance(value, bool | str):
            try:
                number = float(value)
            except ValueError:
                raise ValueError(f"is {kind_of(value)}, not a number{self.hint}") from None
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"is {kind_of(value)}, not a number{self.hint}")
        if abs(number) > 1e300 or not isfinite(number):
            raise ValueError("is not finite")
        if not self.least <= number <= self.most:
            raise ValueError(f"is not in [{self.least:g}, {self.most:g}]{self.hint}")
        return number


@dataclass(frozen=True)
class Label:
    """What a record is: text, a finite number, true or false; with `null`, also null."""

    null: bool = False

    def __call__(self, value: Any) -> Any:
        if value is None and self.null:
            return None
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return Number()(value)
        if not isinstance(value, str):
            raise ValueError(f"is {kind_of(value)}, not a label (text, a number, true or false)")
        return Text(blank=True)(value)


@dataclass(frozen=True)
class ListOf:
    """A list, each item of which keeps a rule."""

    rule: Rule

    def __call__(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError(f"is {kind_of(value)}, not a list")
        found = []
        for index, item in enumerate(value):
            try:
                found.append(self.rule(item))
            except ValueError as error:
                raise ValueError(f"item {index} {error}") from None
        return found


def spans(value: Any) -> list[Any]:
    """Character positions: [start, end] pairs or single offsets; null is an empty list."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"is {kind_of(value)}; spans are a list of [start, end] pairs or of single offsets")
    for index, span in enumerate(value):
        pair = span if isinstance(span, list | tuple) else [span, span]
        if len(pair) != 2 or any(type(place) is not int for place in pair) or not 0 <= pair[0] <= pair[1]:
            raise ValueError(
                f"item {index} is {shortened(span)}; spans are [start, end] pairs or single offsets, whole numbers "
                "from 0 up, and none ends before it begins"
            )
    return value


DOCUMENT: Schema = {"text": Text(blank=True, null=True), "spans": spans}
RATIONALES: Schema = {
    "words": ListOf(Text(blank=True)),
    "labels": ListOf(Label()),
    "rationales": ListOf(ListOf(Number(least=0, most=1))),
}
QUERY: Schema = {"prompt": Text(blank=True), "continuation": Text(), "label": Label(null=True)}
PROMPT: Schema = {"text": Text(blank=True), "subset": Label()}
SCORED_PROMPT: Schema = {"prompt": Text(blank=True), "continuation": Text(blank=True)}
SCORE: Schema = {"score": Number(null=True)}
PAIR: Schema = {"prompt": Text(blank=True, null=True), "chosen": Text(blank=True), "rejected": Text(blank=True)}
FINE_TUNING: Schema = {"prompt": Text(blank=True), "response": Text(), "type": Label()}
REFERENCE: Schema = {"prompt": Text(blank=True), "response": Text()}
LABELLED: Schema = {"text": Text(blank=True, null=True), "label": Label(null=True)}
TEXT: Schema = {"text": Text(blank=True)}
PASSAGE: Schema = {"text": Text()}


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    for kinds, name in (
        (type(None), "null"), (bool, "true or false"), (int | float, "a number"), (str, "text"),
        (list | tuple, "a list"), (Mapping, "an object"),
    ):  # fmt: skip
        if isinstance(value, kinds):
            return name
    return f"of the type {type(value).__name__}"


def folded(value: Any) -> Any:
    """What is left of a label without its case, its type and blanks around it."""
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else value
    plain = value.strip().casefold()
    try:
        return float(plain)
    except ValueError:
        return plain


def is_one_of(value: Any, allowed: Sequence[Any], name: str) -> bool:
    """Whether a value equals an allowed one.

    Raises:
        ValueError: it differs from one in case, blanks or type alone.
    """
    if isinstance(allowed, str) or not isinstance(allowed, Sequence):
        allowed = [allowed]
    if value in allowed:
        return True
    near = [one for one in allowed if value is not None and folded(one) == folded(value)]
    if near:
        raise ValueError(
            f"is {shortened(value)}, and {name} has {shortened(near[0])}: they differ in case, blanks or type alone; "
            "write both alike, or name both"
        )
    return False


@dataclass(frozen=True)
class Classes:
    """Which of two classes a label belongs to.

    Args:
        positive: labels of the one.
        negative: labels of the other; None: all that are not positive.

    Raises:
        ValueError: nothing is positive, or something both.
    """

    positive: Sequence[Any]
    negative: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, str) or not isinstance(value, Sequence) or not value):
                raise ValueError(f"{name}={value!r}: it is a list of labels, as in [toxic]")
        if both := [one for one in self.negative or () if one in self.positive]:
            raise ValueError(f"negative={list(self.negative or ())}: {both[0]!r} is also in `positive`")

    def of(self, field: str, labels: Sequence[tuple[str, Any]], *, complete: bool = True) -> list[bool]:
        """Whether each of (place, label) is positive.

        Args:
            field: the field of the labels, for messages.
            labels: all of them, without null.
            complete: they are all that there are, so that one at least is positive.

        Raises:
            ValueError: a label is neither, or nearly one of the values.
        """
        found = []
        for place, label in labels:
            try:
                positive = is_one_of(label, self.positive, "positive")
                if not positive and self.negative is not None and not is_one_of(label, self.negative, "negative"):
                    raise ValueError(
                        f"is {shortened(label)}, which is neither in `positive` nor in `negative`; {_occurring(labels)}"
                    )
            except ValueError as error:
                raise ValueError(f"files={place}: `{field}` {error}") from None
            found.append(positive)
        if complete and labels and not any(found):
            raise ValueError(
                f"positive={list(self.positive)}: no `{field}` of the files is one of them; {_occurring(labels)}"
            )
        return found


def _occurring(labels: Sequence[tuple[str, Any]]) -> str:
    values = list(dict.fromkeys(shortened(label) for _, label in labels))
    return f"the labels that occur are {', '.join(values[:20])}{', …' if len(values) > 20 else ''}"
