"""Texts that somebody judged: labelled ones to learn from, and scored ones to look up."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifguide.corpus.sources import find_files, get_field, read_records


@dataclass(frozen=True)
class LabelledText:
    text: str
    toxic: bool


class LabelledSource:
    """Labelled texts of jsonl or parquet files; texts without words and repetitions of a text are left out.

    Args:
        files: files or globs.
        text, label: fields of a record, nested ones as `continuation.toxicity`.
        positive: values of the label that mean toxic; every other value means not. Or
        at_least: the label is a number, and this or more means toxic.
        where: field → allowed values; other records are left out.
        limit: keep the first texts only.

    Raises:
        ValueError: no such file; both or neither of `positive` and `at_least`; a field that is not there; a label that
            is no number where one is needed; no text at all. A record whose label is null is left out.
    """

    def __init__(
        self,
        *,
        files: str | Sequence[str],
        text: str = "text",
        label: str = "label",
        positive: Sequence[Any] | None = None,
        at_least: float | None = None,
        where: Mapping[str, Sequence[Any]] | None = None,
        limit: int | None = None,
    ) -> None:
        self.files = find_files(files)
        if (positive is None) == (at_least is None):
            raise ValueError(
                f"labelled texts of {self.files[0]}: give one of `positive` (values that mean toxic) and `at_least`"
            )
        self.text, self.label, self.positive, self.at_least = text, label, positive, at_least
        self.where, self.limit = dict(where or {}), limit

    def __iter__(self) -> Iterator[LabelledText]:
        seen: set[str] = set()
        for file in self.files:
            for place, values in read_records(file):
                if any(get_field(values, key, place) not in allowed for key, allowed in self.where.items()):
                    continue
                text, label = get_field(values, self.text, place), get_field(values, self.label, place)
                if label is None or not text.strip() or text in seen:
                    continue
                seen.add(text)
                yield LabelledText(text, self._is_toxic(label, place))
                if len(seen) == self.limit:
                    return
        if not seen:
            raise ValueError(f"no labelled text in {', '.join(map(str, self.files))}")

    def _is_toxic(self, label: Any, place: str) -> bool:
        if self.positive is not None:
            return label in self.positive
        try:
            return float(label) >= float(self.at_least or 0)
        except (TypeError, ValueError):
            raise ValueError(f"{place}: `{self.label}` is {label!r}, and `at_least` needs a number") from None


def share_of(text: str) -> float:
    """A number in [0, 1) that only the text decides: those below p are a fixed sample of a share p."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def text_scores(
    *, files: str | Sequence[str], text: str = "text", categories: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Text → category → score, read from jsonl or parquet files.

    Args:
        files: files or globs.
        text: field of the text.
        categories: category → field of its score, nested ones as `attributes.TOXICITY`.

    Raises:
        ValueError: a missing field or score, or a text with two different scores.
    """
    scores: dict[str, dict[str, float]] = {}
    for file in find_files(files):
        for place, values in read_records(file):
            name = get_field(values, text, place)
            found = {category: get_field(values, field, place) for category, field in categories.items()}
            if missing := [category for category, score in found.items() if not isinstance(score, int | float)]:
                raise ValueError(f"{place}: the score of {', '.join(missing)} is no number")
            if scores.setdefault(name, found) != found:
                raise ValueError(f"{place}: this text has two different scores: {name[:60]!r}")
    return scores
