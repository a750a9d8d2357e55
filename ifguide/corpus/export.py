"""The mask, to be taken elsewhere: selected text as documents with spans, and a data set with a mask column.

Everything streams: what is in memory is a few documents, or a million tokens.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.blocks import LABELS, Split
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.offsets import TokenOffsets
from ifguide.corpus.repacking import chunks_of, document_values

Item = TypeVar("Item")
UNITS = ("block", "document")
DOCUMENTS, DATASET = "documents", "dataset"
AT_ONCE = 1 << 20  # tokens or characters

# B blocks, T tokens


def check_unit(unit: str) -> None:
    """Raise ValueError for an unknown unit."""
    if unit not in UNITS:
        raise ValueError(f"unit={unit}; known: {', '.join(UNITS)}")


@dataclass(frozen=True)
class MaskedSplit:
    """A split with its mask, and the scores that it was selected by.

    Args:
        split: token blocks with their documents.
        mask: of these blocks.
        scores: behaviour → [B, T], in memory or memory-mapped.
        sources: names of the sources by number, as in `Corpus.sources`; empty: a document has no source.

    Raises:
        ValueError: no scores, or a mask or scores of another shape.
    """

    split: Split
    mask: TokenMask
    scores: Mapping[str, NDArray[np.float32]]
    sources: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.scores:
            raise ValueError("scores: there are none; give those of one behaviour at least")
        for name, shape in (("mask", self.mask.shape), *((key, column.shape) for key, column in self.scores.items())):
            if shape != self.split.shape:
                raise ValueError(
                    f"{name}: its shape is {shape}, that of the blocks {self.split.shape}: of other blocks"
                )

    def export(self, folder: Path, tokenizer: PreTrainedTokenizerFast, *, unit: str = "block") -> dict[str, int]:
        """Write `documents.jsonl`, `documents.parquet` and `dataset/` (`docs/artifacts.md`) into a folder.

        Args:
            folder: gets the files.
            tokenizer: of the blocks.
            unit: what a row of the data set is: `block` or `document`.

        Returns:
            Facts: documents with spans, spans, rows of the data set, selected tokens.

        Raises:
            ValueError: an unknown unit.
        """
        check_unit(unit)
        facts = self._write_documents(folder, tokenizer)
        stream = folder / ".rows.arrow"
        with pa.OSFile(str(stream), "wb") as file, pa.ipc.new_stream(file, self._schema(unit)) as writer:
            for batch in self.batches(unit):
                writer.write_batch(batch)
        dataset = Dataset.from_file(str(stream))
        dataset.save_to_disk(str(folder / DATASET))
        rows = len(dataset)
        del dataset
        stream.unlink()
        return facts | {"rows": rows, "selected": self.mask.count()}

    def documents(self, tokenizer: PreTrainedTokenizerFast) -> Iterator[dict[str, Any]]:
        """A record of each document that has selected text; see `documents.jsonl` in `docs/artifacts.md`."""
        read, labels = TokenOffsets(tokenizer), {code: label for label, code in LABELS.items()}
        for row, ids, selected, scores in self._by_document():
            if ids[-1] == tokenizer.eos_token_id:  # between documents, and no part of one
                ids = ids[:-1]
            runs = runs_of(selected[: len(ids)])
            if not runs:
                continue
            text, offsets = read(ids)
            spans = [
                {
                    "start": start,
                    "end": end,
                    "text": text[start:end],
                    "scores": {name: shortest(values[first:last].max()) for name, values in scores.items()},
                }
                for start, end, first, last in merged(runs, offsets)
            ]
            source = self.sources[row["source"]] if self.sources else None
            label = labels[int(row["label"])]
            yield {"source": source, "record": int(row["record"]), "label": label, "text": text, "spans": spans}

    def batches(self, unit: str) -> Iterator[pa.RecordBatch]:
        """Rows of the data set: `input_ids`, `mask`, `scores` → behaviour; of a document, `source` and `record` too."""
        schema = self._schema(unit)
        if unit == "block":
            length = self.split.block_length
            for rows in chunks_of(self.split):
                scores = {name: column[rows].reshape(-1) for name, column in self.scores.items()}
                flat = self.split.tokens(rows).reshape(-1), self.mask[rows].reshape(-1), scores
                yield _record_batch(schema, np.arange(0, len(flat[0]) + 1, length), *flat)
            return
        for batch in batched(self._by_document(), lambda document: len(document[1])):
            table, ids, masks, columns = zip(*batch, strict=True)
            scores = {name: np.concatenate([column[name] for column in columns]) for name in self.scores}
            offsets = np.cumsum([0, *map(len, ids)])
            sources = [self.sources[row["source"]] if self.sources else None for row in table]
            records = [int(row["record"]) for row in table]
            yield _record_batch(
                schema, offsets, np.concatenate(ids), np.concatenate(masks), scores, pa.array(sources, pa.string()),
                pa.array(records, pa.int64()),
            )  # fmt: skip

    def _by_document(self) -> Iterator[tuple[Any, NDArray[np.int64], NDArray[np.bool_], dict[str, NDArray[Any]]]]:
        """Row of the index, tokens, mask and scores of one document after the other."""
        streams = [document_values(self.split, read) for read in (self.split.tokens, self.mask.__getitem__)]
        streams += [document_values(self.split, column.__getitem__) for column in self.scores.values()]
        for row, ids, selected, *scores in zip(self.split.documents, *streams, strict=True):
            yield row, ids, selected, dict(zip(self.scores, scores, strict=True))

    def _write_documents(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
        scores = pa.struct([(name, pa.float32()) for name in self.scores])
        span = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("text", pa.string()), ("scores", scores)])
        schema = pa.schema(
            [("source", pa.string()), ("record", pa.int64()), ("label", pa.string()), ("text", pa.string()),
             ("spans", pa.list_(span))]
        )  # fmt: skip
        count = spans = 0
        lines, table = folder / f"{DOCUMENTS}.jsonl", folder / f"{DOCUMENTS}.parquet"
        with lines.open("w", encoding="utf-8") as file, pq.ParquetWriter(table, schema) as writer:
            for batch in batched(self.documents(tokenizer), lambda record: len(record["text"])):
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in batch)
                writer.write_table(pa.Table.from_pylist(batch, schema))
                count, spans = count + len(batch), spans + sum(len(record["spans"]) for record in batch)
        return {"documents": count, "spans": spans}

    def _schema(self, unit: str) -> pa.Schema:
        scores = pa.struct([(name, pa.list_(pa.float32())) for name in self.scores])
        fields = [("input_ids", pa.list_(pa.int32())), ("mask", pa.list_(pa.bool_())), ("scores", scores)]
        return pa.schema([*fields, *([] if unit == "block" else [("source", pa.string()), ("record", pa.int64())])])


def runs_of(selected_T: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open ranges of consecutive selected tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], selected_T, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def merged(runs: Iterable[tuple[int, int]], offsets: NDArray[np.int64]) -> list[tuple[int, int, int, int]]:
    """Ranges of characters of some runs of tokens, each with its range of tokens.

    Two runs that hold parts of the same character are one.
    """
    spans: list[tuple[int, int, int, int]] = []
    for first, last in runs:
        start, end = int(offsets[first, 0]), int(offsets[first:last, 1].max())
        if spans and start < spans[-1][1]:
            begun = spans.pop()
            start, first = begun[0], begun[2]
        spans.append((start, end, first, last))
    return spans


def batched(items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Lists of some items, each of about a million in size."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= AT_ONCE:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def shortest(value: np.float32) -> float:
    """The number of fewest digits that is this one in float32."""
    return float(str(value))


def _record_batch(
    schema: pa.Schema,
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
    mask: NDArray[np.bool_],
    scores: Mapping[str, NDArray[np.float32]],
    *more: pa.Array,
) -> pa.RecordBatch:
    """Lists of tokens' values, cut at some offsets, under a schema that begins with them."""

    def lists(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, kind))

    struct = pa.StructArray.from_arrays(
        [lists(np.asarray(column, np.float32), pa.float32()) for column in scores.values()], names=list(scores)
    )
    columns = [lists(ids.astype(np.int32), pa.int32()), lists(mask, pa.bool_()), struct, *more]
    return pa.record_batch(columns, schema=schema)
