"""What a stage says of its own work: a pure function of its settings and of the size of the corpus."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from transformers import PreTrainedModel

from ifguide.cost.shape import ModelShape

GIB = 2**30
PROCESS = 0.8 * GIB  # memory of a process that has imported everything and computed nothing, on a CPU


@dataclass(frozen=True)
class CorpusSize:
    """How large a corpus is, or will be.

    Attributes:
        blocks: split → token blocks.
        documents: of all splits.
        block_length: tokens of a block.
        vocabulary: token ids.
        characters: of a token, on average; what texts have not been tokenised is counted by it.
        source: where all this is from, for people.
        annotated: whether toxic spans are known.
        read: tokens of its sources, of which weights take more or fewer; 0: as many as it has.
    """

    blocks: Mapping[str, int]
    documents: int
    block_length: int
    vocabulary: int
    characters: float
    source: str
    annotated: bool = False
    read: float = 0.0

    def tokens(self, *splits: str) -> int:
        """Tokens of some splits; of all where none is named."""
        return sum(self.blocks[split] for split in splits or self.blocks) * self.block_length

    def tokens_of(self, texts: Iterable[str]) -> float:
        """About how many tokens some texts have, with one more for each."""
        return sum(len(text) / self.characters + 1 for text in texts)


class Kind(Protocol):
    """A way to compute with a model: how much arithmetic it is, and how it is tried."""

    @property
    def name(self) -> str: ...

    def flops(self, model: ModelShape, rows: int, length: int) -> float:
        """Floating-point operations on a batch; a multiplication and an addition are two."""
        ...

    def weight_reads(self, length: int) -> float:
        """How often a batch reads all weights, which bounds it where there is little else to do."""
        ...

    def run(self, model: PreTrainedModel, rows: int, length: int) -> None:
        """Compute one batch of random tokens on the model's device; timed, so it is called more than once."""
        ...


@dataclass(frozen=True)
class Pass:
    """Batches of one form through a model.

    Attributes:
        kind: what is computed.
        model: its shape.
        rows, length: sequences of a batch, and their tokens.
        count: batches; need not be whole.
        dtype: `float32`, `bfloat16`, or `auto` where the device decides; in which products are computed.
    """

    kind: Kind
    model: ModelShape
    rows: int
    length: int
    count: float
    dtype: str = "float32"

    @property
    def flops(self) -> float:
        return self.kind.flops(self.model, self.rows, self.length) * self.count


@dataclass(frozen=True)
class Memory:
    """Peak memory of one device, in bytes: `fixed + each · count`.

    Attributes:
        fixed: whatever is computed at a time.
        each: of one row of a batch.
        count: rows at a time.
        setting: what decides `count`, as it is typed; None: nothing does.
    """

    fixed: float = 0.0
    each: float = 0.0
    count: int = 0
    setting: str | None = None

    @property
    def peak(self) -> float:
        return self.fixed + self.each * self.count

    def fitting(self, limit: float) -> int | None:
        """The largest power of two, of rows at a time, that stays below a limit; None where not even one does."""
        if self.setting is None or self.fixed + self.each > limit:
            return None
        rows = 1
        while rows * 2 <= self.count and self.fixed + self.each * rows * 2 <= limit:
            rows *= 2
        return rows


@dataclass(frozen=True)
class Work:
    """What building a stage takes.

    Attributes:
        passes: what a device computes.
        seconds: of what no device computes (reading, tokenising, counting), by constants that each stage names.
        memory: peak of one device.
        disk: bytes that stay.
        scratch: bytes that are there beside them while it is built.
        lacking: what is not counted, for people; None: nothing.
    """

    passes: tuple[Pass, ...] = ()
    seconds: float = 0.0
    memory: Memory = field(default_factory=Memory)
    disk: float = 0.0
    scratch: float = 0.0
    lacking: str | None = None

    @property
    def flops(self) -> float:
        return sum(one.flops for one in self.passes)
