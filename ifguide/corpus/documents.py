"""What a corpus is made of: records of text, before any tokenizer has seen them."""

from dataclasses import dataclass
from typing import ClassVar

BENIGN, TOXIC = "benign", "toxic"


@dataclass(frozen=True)
class Document:
    """One text of the training corpus.

    Attributes:
        text: the document.
        source: name of the source it came from.
        record: index of the record within its source.
        label: `benign`, `toxic`, or None where nobody said.
        spans: half-open character ranges known to be toxic (human annotation, or the sample's own knowledge);
            None where the document was never annotated.
    """

    text: str
    source: str
    record: int
    label: str | None = None
    spans: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Query:
    """A (prompt, continuation) pair whose continuation shows, or does not show, the behaviour.

    `record` names the record it came from; evaluation prompts never share one with queries. `label` is what the record
    calls its class, for people.
    """

    NOT_SETTINGS: ClassVar = ("record", "label")

    prompt: str
    continuation: str
    toxic: bool
    record: str
    label: str = ""


@dataclass(frozen=True)
class Prompt:
    """A text to be continued at evaluation; `subset` groups prompts in the metrics (`toxic`, `nontoxic`, …)."""

    NOT_SETTINGS: ClassVar = ("record",)

    text: str
    subset: str
    record: str


@dataclass(frozen=True)
class LabelledText:
    """A text and how toxic it is, in [0, 1]: what a reward model and experts learn from."""

    text: str
    toxicity: float

    @property
    def toxic(self) -> bool:
        return self.toxicity >= 0.5


@dataclass(frozen=True)
class Pair:
    """Two continuations of a prompt (which may be empty), the first preferred to the second."""

    prompt: str
    chosen: str
    rejected: str

    @property
    def responses(self) -> tuple[str, str]:
        return self.chosen, self.rejected
