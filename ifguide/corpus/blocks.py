"""Token blocks, opened: one shuffled stream of tokens in fixed-length blocks, with an index of documents.

A corpus is a folder. For each split it holds `<split>.arrow` (the blocks, memory-mapped), `<split>_documents.npy` (one
row per document, in the order of the stream) and `<split>_annotation.npy` (one bit per token: inside a known toxic
span); beside them the tokenizer and `corpus.json`. The stream of a split is its documents, each followed by the
end-of-text token; blocks cut it every `block_length` tokens, and an incomplete last block is left out.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.documents import BENIGN, TOXIC
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.tokenizers import open_tokenizer, vocabulary_size
from ifguide.workspace import read_json

INFO_FILE = "corpus.json"
SPLITS = ("train", "validation", "test")
LABELS = {None: -1, BENIGN: 0, TOXIC: 1}
# `start` is the position of the document's first token in the split's stream.
DOCUMENT_ROW = np.dtype([("source", "<i2"), ("record", "<i8"), ("start", "<i8"), ("label", "i1"), ("annotated", "?")])


@dataclass(frozen=True)
class Split:
    """One split of a corpus, memory-mapped.

    Attributes:
        blocks: data set of `input_ids`, [blocks, block length].
        documents: rows of `DOCUMENT_ROW`, sorted by `start`.
        annotation: which tokens lie in a known toxic span; None where no document was annotated.
    """

    blocks: Dataset
    documents: NDArray[np.void]
    annotation: TokenMask | None

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def block_length(self) -> int:
        return int(self.blocks.features["input_ids"].length)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.block_length

    def tokens(self, rows: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """Token ids of some blocks, [rows, T]."""
        found = np.asarray(self.blocks.with_format("numpy")[rows]["input_ids"], dtype=np.int64)
        return found.reshape(-1, self.block_length)  # of no rows, too

    def documents_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of the document at each position of the stream (position = block · block length + offset)."""
        return np.searchsorted(self.documents["start"], positions, side="right") - 1

    def extent(self, document: int) -> tuple[int, int]:
        """Half-open range of stream positions of a document, its end-of-text token included, as far as it is kept."""
        starts, total = self.documents["start"], len(self) * self.block_length
        end = starts[document + 1] if document + 1 < len(starts) else total
        return int(starts[document]), min(int(end), total)


def write_info(directory: Path, info: Mapping[str, Any]) -> None:
    """What `Corpus.info` reads."""
    (directory / INFO_FILE).write_text(json.dumps(info, indent=2), encoding="utf-8")


class Corpus:
    """An opened corpus folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: dict[str, Any] = read_json(path / INFO_FILE)
        self.sources: list[str] = self.info["sources"]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return open_tokenizer(self.path / "tokenizer")

    @property
    def vocabulary(self) -> int:
        return vocabulary_size(self.tokenizer)

    @property
    def text_vocabulary(self) -> int:
        """The vocabulary before control tokens were added to it."""
        return int(self.info.get("text_vocabulary", self.vocabulary))

    @property
    def control_tokens(self) -> list[int]:
        """Tokens before segments, which nobody writes (`ifguide.corpus.control_tokens`), the good one first."""
        return list(self.info.get("control_tokens", ()))

    @property
    def end_of_text(self) -> int:
        """The token between documents."""
        return int(self.tokenizer.eos_token_id)

    @property
    def altered_share(self) -> float:
        """Share of the documents, of those compared, that cannot be read back from their tokens."""
        return float(self.info.get("altered_share", 0))

    def split(self, name: str) -> Split:
        blocks = Dataset.from_file(str(self.path / f"{name}.arrow"))
        annotation_file = self.path / f"{name}_annotation.npy"
        return Split(
            blocks,
            np.load(self.path / f"{name}_documents.npy", mmap_mode="r"),
            TokenMask.open(annotation_file, self.info["block_length"]) if annotation_file.exists() else None,
        )


def write_blocks(path: Path, pieces: Iterator[NDArray[np.int32]], blocks: int, block_length: int) -> None:
    """Write an Arrow stream of fixed-size lists, a few thousand blocks at a time."""
    schema = pa.schema([pa.field("input_ids", pa.list_(pa.int32(), block_length))])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        pending: list[NDArray[np.int32]] = []
        waiting = written = 0
        for piece in pieces:
            pending.append(piece)
            waiting += len(piece)
            if waiting >= 4096 * block_length:
                written, pending = _flush(writer, schema, pending, written, blocks, block_length)
                waiting = sum(map(len, pending))
        _flush(writer, schema, pending, written, blocks, block_length)


def _flush(
    writer: Any, schema: pa.Schema, pending: list[NDArray[np.int32]], written: int, blocks: int, block_length: int
) -> tuple[int, list[NDArray[np.int32]]]:
    flat = np.concatenate(pending) if pending else np.zeros(0, np.int32)
    count = min(len(flat) // block_length, blocks - written)
    if count:
        values = pa.FixedSizeListArray.from_arrays(pa.array(flat[: count * block_length]), block_length)
        writer.write_batch(pa.record_batch([values], schema=schema))
    return written + count, [flat[count * block_length :]]
