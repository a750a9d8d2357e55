"""Labelled texts as documents that say their label in words, so that a language model learns to classify."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from ifguide.corpus.documents import BENIGN, TOXIC, Document, LabelledText
from ifguide.corpus.labelled import hash_fraction


@dataclass(frozen=True, kw_only=True)
class AnsweredSource:
    """Labelled texts, each followed by a question about it and the answer: `<text><question><answer>`.

    The spans of these documents are their answers.

    Args:
        texts: labelled texts.
        question: what stands after a text.
        positive, negative: the answer for a toxic text, and for another one.
        held_out: share of the texts, by a hash of the text, that are no documents: a model is asked about them
            (`ifguide.evaluation.answers`).
        name: name of the source in the document index.

    Raises:
        ValueError: a share out of range, answers that are alike or empty, or a class that is missing among what is
            learned or among what is held out.
    """

    annotates: ClassVar = True

    texts: Iterable[LabelledText]
    question: str = "\nOffensive?"
    positive: str = " yes"
    negative: str = " no"
    held_out: float = 0.2
    name: str = "answered"

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: a share above 0 and below 1")
        if not self.positive.strip() or not self.negative.strip() or self.positive == self.negative:
            raise ValueError(f"positive={self.positive!r}: it and negative={self.negative!r} are two different answers")

    @cached_property
    def parts(self) -> tuple[list[LabelledText], list[LabelledText]]:
        """The texts that are documents, and those that are held out."""
        found: tuple[list[LabelledText], list[LabelledText]] = ([], [])
        for row in self.texts:
            found[hash_fraction(row.text) < self.held_out].append(row)
        for name, rows in zip(("learned", "held out"), found, strict=True):
            if len({row.toxic for row in rows}) < 2:
                raise ValueError(f"texts: those that are {name} need both toxic and other ones")
        return found

    def __iter__(self) -> Iterator[Document]:
        for record, row in enumerate(self.parts[0]):
            asked, answer = row.text + self.question, self.positive if row.toxic else self.negative
            spans = ((len(asked), len(asked) + len(answer)),)
            yield Document(asked + answer, self.name, record, TOXIC if row.toxic else BENIGN, spans)
