"""Token blocks of a Hugging Face data set, for those who have one in a program."""

import copy
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ifguide.corpus.blocks import DOCUMENT_ROW, Split, write_blocks
from ifguide.corpus.tokenizers import faithful

ROWS_AT_ONCE = 1000


def make_blocks(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    block_length: int | None = None,
) -> Split:
    """Token blocks of a data set, in a temporary file of 4 bytes a token.

    Rows of `input_ids` that are equally long are the blocks. Rows of other lengths, and texts (each followed by the
    end-of-text token), are joined and cut every `block_length` tokens; an incomplete last block is left out. What
    `attention_mask` calls padding is left out, too.

    Args:
        dataset: with a column `input_ids`, perhaps `attention_mask`, or else `text`.
        tokenizer: for texts.
        block_length: tokens per block; None: the rows' own length.

    Returns:
        The blocks, with an index of their documents, whose `record` is the row.

    Raises:
        ValueError: neither column, rows of several lengths or texts without `block_length`, or less than one block.
    """
    pieces = _rows(dataset, tokenizer, block_length)
    _, first = next(pieces, (0, np.zeros(0, np.int32)))
    length = len(first) if block_length is None else block_length
    if length < 2:
        raise ValueError(f"block_length={length}: a block has at least 2 tokens (None: as many as the first row)")
    records, lengths = [0], [len(first)]

    def tokens() -> Iterator[NDArray[np.int32]]:
        yield first
        for record, row in pieces:
            if block_length is None and len(row) != length:
                raise ValueError(
                    f"dataset: row {record} has {len(row)} tokens, the first {length}; give block_length to cut rows "
                    "of several lengths into blocks"
                )
            records.append(record)
            lengths.append(len(row))
            yield row

    with tempfile.TemporaryDirectory(prefix="ifguide-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "blocks.arrow"
        write_blocks(path, tokens(), sys.maxsize, length)
        blocks = Dataset.from_file(str(path))  # which stays mapped when its name has gone
    if not len(blocks):
        raise ValueError(f"block_length={length}: the {sum(lengths)} tokens of the data set are less than one block")
    documents = np.zeros(len(lengths), DOCUMENT_ROW)
    documents["record"], documents["label"] = records, -1
    documents["start"] = np.cumsum(lengths) - lengths
    kept = (np.array(lengths) > 0) & (documents["start"] < len(blocks) * length)
    return Split(blocks, documents[kept], None)


def own_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """A copy of a tokenizer that encodes texts whole and as they are."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"tokenizer: {type(tokenizer).__name__} gives no offsets; use a fast one (tokenizer.json)")
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer: it has no end-of-text token; set its eos_token")
    return faithful(copy.deepcopy(tokenizer))


def _rows(dataset: Any, tokenizer: Any, block_length: int | None) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Number and tokens of every row of a data set."""
    if not isinstance(dataset, Dataset | IterableDataset):
        raise ValueError(f"dataset: it is a {type(dataset).__name__}; give one split, a Dataset of Hugging Face")
    own, record = None if tokenizer is None else own_tokenizer(tokenizer), 0
    for batch in dataset.iter(ROWS_AT_ONCE):
        if "input_ids" in batch:
            rows: Iterable[Any] = batch["input_ids"]
            if "attention_mask" in batch:
                rows = (np.asarray(r)[np.asarray(m) == 1] for r, m in zip(rows, batch["attention_mask"], strict=True))
        elif "text" not in batch:
            raise ValueError(f"dataset: it has the columns {', '.join(batch)}; `input_ids` or `text` is needed")
        elif own is None or block_length is None:
            raise ValueError("dataset: its column `text` needs a tokenizer and a block_length")
        else:
            for index, text in enumerate(batch["text"], start=record):
                if not isinstance(text, str):
                    raise ValueError(f"dataset: `text` of row {index} is {text!r}; a text is needed")
            encodings = own.backend_tokenizer.encode_batch(list(batch["text"]), add_special_tokens=False)
            rows = ([*encoding.ids, own.eos_token_id] for encoding in encodings)
        for row in rows:
            yield record, np.asarray(row, np.int32)
            record += 1
