"""What is left of a split without some documents: their tokens cut into blocks anew, and masks that follow them.

All of it streams: memory follows the number of documents, never the number of tokens.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.blocks import Corpus, Split, write_blocks, write_info
from ifguide.corpus.masks import TokenMask

TOKENS_AT_ONCE = 1 << 20
MOST_ALTERED = 0.01  # of the documents, by a tokenizer, where something reads them

# B blocks, T tokens, D documents


def check_readable(corpus: Corpus, reader: str) -> None:
    """Raise ValueError where a corpus's tokenizer does not keep the texts that a reader reads from their tokens."""
    if corpus.altered_share > MOST_ALTERED:
        raise ValueError(
            f"{reader}: it reads documents from their tokens, and the corpus's tokenizer (data.tokenizer) alters "
            f"{corpus.altered_share:.0%} of them (case, accents, signs); use one that keeps texts as they are"
        )


def document_lengths(split: Split) -> NDArray[np.int64]:
    """Tokens of each document, its end-of-text token included, as far as the split's blocks hold it."""
    return np.diff(np.append(split.documents["start"], len(split) * split.block_length))


def document_tokens(split: Split) -> Iterator[NDArray[np.int64]]:
    """The tokens of one document after the other, as in `document_lengths`."""
    return document_values(split, split.tokens)


def document_values(split: Split, read: Callable[[slice], NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """What belongs to the tokens of one document after the other.

    Args:
        read: rows of blocks → [rows, T].
    """
    starts, position = np.asarray(split.documents["start"]), 0
    pending: list[NDArray[Any]] = []
    for rows in chunks_of(split):
        flat = read(rows).reshape(-1)
        inside = starts[np.searchsorted(starts, max(position, 1)) : np.searchsorted(starts, position + len(flat))]
        pieces = np.split(flat, inside - position)
        for piece in pieces[:-1]:
            yield np.concatenate([*pending, piece])
            pending = []
        pending.append(pieces[-1])
        position += len(flat)
    if pending:
        yield np.concatenate(pending)


def document_texts(split: Split, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    """The text of one document after the other; a document that the last block cuts is cut here too."""
    decode = tokenizer.backend_tokenizer.decode  # the bare one: it tidies no spaces
    return (decode(tokens.tolist(), skip_special_tokens=True) for tokens in document_tokens(split))


def document_sums(values_BT: NDArray[np.float32], split: Split) -> NDArray[np.float64]:
    """Sum of the values of each document's tokens, [D]; values may be memory-mapped."""
    starts, length = np.asarray(split.documents["start"]), split.block_length
    sums = np.zeros(len(starts))
    for rows in chunks_of(split):
        first, end = rows.start * length, rows.stop * length
        here = slice(int(np.searchsorted(starts, first, side="right")) - 1, int(np.searchsorted(starts, end)))
        cuts = np.maximum(starts[here] - first, 0)
        sums[here] += np.add.reduceat(np.asarray(values_BT[rows], np.float64).reshape(-1), cuts)
    return sums


def write_kept(directory: Path, corpus: Corpus, dropped_D: NDArray[np.bool_]) -> dict[str, Any]:
    """Write the training split without some documents, in the order that it has, as a corpus of that split alone.

    `Corpus(directory).split("train")` opens it. The last block, if it is incomplete, is left out, as ever.

    Returns:
        Facts: its documents, tokens and blocks.

    Raises:
        ValueError: less than one block is left.
    """
    split = corpus.split("train")
    length, kept = split.block_length, ~dropped_D
    lengths = document_lengths(split)[kept]
    blocks = int(lengths.sum()) // length
    if blocks == 0:
        raise ValueError(
            f"the filter leaves {int(lengths.sum())} tokens, less than one block of {length}: drop fewer documents"
        )
    rows = np.array(split.documents[kept])
    rows["start"] = np.cumsum(lengths) - lengths
    facts = write_split(directory, "train", rows, kept_pieces(split.tokens, split, dropped_D), blocks, length)
    if split.annotation is not None:
        write_kept_mask(directory / "train_annotation.npy", split.annotation, split, dropped_D, first_column=True)
    info = {"sources": corpus.sources, "block_length": length, "facts": {"train": facts}}
    write_info(directory, info)
    return facts


def write_split(
    directory: Path,
    name: str,
    documents_D: NDArray[Any],
    pieces: Iterator[NDArray[Any]],
    blocks: int,
    length: int,
) -> dict[str, int]:
    """Write blocks and index of a split, as `Corpus.split` opens it, of a stream that comes piece by piece.

    Args:
        directory, name: of the corpus, and of the split.
        documents_D: rows of the index; those that begin behind the last block are left out.
        pieces: the tokens of the stream.
        blocks, length: how many, and tokens of each; what comes behind them is left out.

    Returns:
        Facts: its documents, tokens and blocks.
    """
    rows = documents_D[documents_D["start"] < blocks * length]
    write_blocks(directory / f"{name}.arrow", (piece.astype(np.int32) for piece in pieces), blocks, length)
    np.save(directory / f"{name}_documents.npy", rows)
    return {"documents": len(rows), "blocks": blocks, "tokens": blocks * length}


def write_kept_mask(
    path: Path, mask: TokenMask, split: Split, dropped_D: NDArray[np.bool_], *, first_column: bool = False
) -> int:
    """Write the mask of the blocks that `write_kept` makes: every bit follows its token.

    Args:
        path: the file to write.
        mask: of the whole split.
        split: the whole split.
        dropped_D: documents that are not kept.
        first_column: keep bits that come to lie on a block's first token, which nothing predicts: for annotations.

    Returns:
        Number of tokens that are marked.
    """
    blocks = int(document_lengths(split)[~dropped_D].sum()) // split.block_length
    pieces = kept_pieces(mask.__getitem__, split, dropped_D)
    return write_mask(path, pieces, blocks, split.block_length, first_column=first_column)


def write_mask(
    path: Path, pieces: Iterator[NDArray[np.bool_]], blocks: int, length: int, *, first_column: bool = False
) -> int:
    """Write the bits of a stream's tokens as the mask of its blocks; see `write_kept_mask`."""
    packed = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(blocks, -(-length // 8)))
    written, rest = 0, np.zeros(0, bool)
    for piece in pieces:
        flat = np.concatenate([rest, piece])
        count = len(flat) // length
        rows_BT, rest = flat[: count * length].reshape(count, length), flat[count * length :]
        if not first_column:
            rows_BT[:, 0] = False
        packed[written : written + count] = np.packbits(rows_BT, axis=1)
        written += count
    packed.flush()
    return TokenMask(packed, length).count()


def kept_pieces(
    read: Callable[[slice], NDArray[Any]], split: Split, dropped_D: NDArray[np.bool_]
) -> Iterator[NDArray[Any]]:
    """What belongs to the tokens of kept documents, in the order of the stream, piece by piece.

    Args:
        read: rows of blocks → [rows, T].
    """
    starts, length = np.asarray(split.documents["start"]), split.block_length
    for rows in chunks_of(split):
        first, end = rows.start * length, rows.stop * length
        here = slice(int(np.searchsorted(starts, first, side="right")) - 1, int(np.searchsorted(starts, end)))
        ends = np.append(starts[here][1:], end)
        keep = np.repeat(~dropped_D[here], ends - np.maximum(starts[here], first))
        yield read(rows).reshape(-1)[keep]


def chunks_of(split: Split) -> Iterator[slice]:
    """Rows of a split, about a million tokens at a time."""
    rows = max(TOKENS_AT_ONCE // split.block_length, 1)
    return (slice(first, min(first + rows, len(split))) for first in range(0, len(split), rows))
