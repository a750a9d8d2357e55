"""How a corpus is made: documents are tokenised, split, shuffled and cut into blocks (`ifguide.corpus.blocks`)."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from ifguide.checks import argument, check_number, check_seed, check_whole_number
from ifguide.corpus.blocks import DOCUMENT_ROW, LABELS, SPLITS, write_blocks, write_info
from ifguide.corpus.documents import Document
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.tokenizers import keeps_text

TOKENIZER_SAMPLE = 100_000  # documents that a tokenizer is trained on, at most
DOCUMENTS_AT_ONCE = 1000
DOCUMENTS_COMPARED = 50  # of each so many: with what can be read back from their tokens


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """What a corpus is made of; see `build_corpus`.

    Raises:
        ValueError: shares or weights out of range, or an unknown source in `weights`.
    """

    sources: Mapping[str, Iterable[Document]]
    tokenizer: Callable[[Iterable[str]], PreTrainedTokenizerFast]
    block_length: int
    weights: Mapping[str, float] = field(default_factory=dict)
    validation: float = 0.05
    test: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: a corpus has at least one")
        if unknown := sorted(set(self.weights) - set(self.sources)):
            raise ValueError(f"weights: no source is called {', '.join(unknown)}; known: {', '.join(self.sources)}")
        for name, weight in self.weights.items():
            check_number(f"weights.{name}", weight, least=0)
        for name in ("validation", "test"):
            check_number(name, getattr(self, name), least=0)
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation={self.validation}, test={self.test}: shares of documents that sum to less than 1"
            )
        check_seed(self.seed)
        check_whole_number("block_length", self.block_length, least=2)

    def build(self, directory: Path) -> dict[str, Any]:
        """Write the corpus into a folder; returns its facts."""
        return build_corpus(
            directory,
            sources=self.sources,
            tokenizer=self.tokenizer,
            block_length=self.block_length,
            weights=self.weights,
            validation=self.validation,
            test=self.test,
            seed=self.seed,
        )


def build_corpus(
    directory: Path,
    *,
    sources: Mapping[str, Iterable[Document]],
    tokenizer: Callable[[Iterable[str]], PreTrainedTokenizerFast],
    block_length: int,
    weights: Mapping[str, float] | None = None,
    validation: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
) -> dict[str, Any]:
    """Tokenise documents, split them, shuffle them and cut them into blocks.

    Args:
        directory: where the corpus is written.
        sources: name → documents; each is iterated once (twice when the tokenizer is trained).
        tokenizer: makes the tokenizer from the corpus's texts (`TokenizerSettings`).
        block_length: tokens per block.
        weights: source → how often its training documents appear: 2 repeats each, 0.25 keeps a quarter (default 1).
        validation, test: share of the documents held out. A document's split depends on its text and the seed alone,
            so equal texts never fall into different splits.
        seed: of the split, of fractional weights and of the order of documents.

    Returns:
        Measured facts: documents, tokens and blocks of each split, share of annotated tokens.

    Raises:
        ValueError: a split of less than one block.
    """
    weights = weights or {}

    def documents() -> Iterator[tuple[int, Document]]:
        for index, (name, source) in enumerate(sources.items()):
            with argument(f"sources.{name}"):
                yield from ((index, document) for document in source)

    encoder = tokenizer(document.text for _, document in islice(documents(), TOKENIZER_SAMPLE))
    encoder.save_pretrained(directory / "tokenizer")

    stream = directory / "stream.bin"
    table: list[tuple[int, int, int, bool, int, int, int, int]] = []
    facts: dict[str, dict[str, float]] = {}
    with stream.open("wb") as tokens, (directory / "annotation.bin").open("wb") as bits:
        position = altered = compared = 0
        for number, document, ids, inside in _tokenise(documents(), encoder):
            copies_of = _copies(weights.get(list(sources)[number], 1.0), document.text, seed)
            split_of = _split_of(document.text, seed, validation, test)
            if len(table) % DOCUMENTS_AT_ONCE < DOCUMENTS_COMPARED:
                compared, altered = compared + 1, altered + (not keeps_text(encoder, document.text, ids.tolist()))
            tokens.write(ids.tobytes())
            bits.write(inside.tobytes())
            is_annotated = document.spans is not None
            label_of = LABELS[document.label]
            table.append((number, document.record, label_of, is_annotated, split_of, copies_of, position, len(ids)))
            position += len(ids)
    columns = [np.array(column) for column in zip(*table, strict=True)]
    source_of, record, label, annotated, split, copies, start, length = columns
    tokens_1d = np.memmap(stream, dtype=np.int32, mode="r")
    inside_1d = np.memmap(directory / "annotation.bin", dtype=np.bool_, mode="r")

    for number, name in enumerate(SPLITS):
        members = np.flatnonzero(split == number)
        if name == "train":
            members = np.repeat(members, copies[members])
        order = np.random.default_rng([seed, number]).permutation(members)
        rows = np.zeros(len(order), dtype=DOCUMENT_ROW)
        lengths = length[order]
        rows["start"] = np.cumsum(lengths) - lengths
        for column, values in (("source", source_of), ("record", record), ("label", label), ("annotated", annotated)):
            rows[column] = values[order]
        blocks = int(lengths.sum()) // block_length
        if blocks == 0 and (name == "train" or len(members)):
            raise ValueError(
                f"block_length={block_length}: the {name} split has only {int(lengths.sum())} tokens, less than one "
                "block; use a larger corpus, a larger share or shorter blocks"
            )
        rows = rows[rows["start"] < blocks * block_length]
        pieces = [slice(start[d], start[d] + length[d]) for d in order]
        write_blocks(directory / f"{name}.arrow", (tokens_1d[piece] for piece in pieces), blocks, block_length)
        np.save(directory / f"{name}_documents.npy", rows)
        facts[name] = {"documents": len(rows), "blocks": blocks, "tokens": blocks * block_length}
        if annotated.any():
            flat = np.concatenate([inside_1d[piece] for piece in pieces] or [np.zeros(0, bool)])
            mask = flat[: blocks * block_length].reshape(blocks, block_length)
            TokenMask.pack(mask).save(directory / f"{name}_annotation.npy")
            facts[name]["annotated_share"] = float(mask.mean()) if blocks else 0.0
    del tokens_1d, inside_1d
    stream.unlink()
    (directory / "annotation.bin").unlink()
    info: dict[str, Any] = {"sources": list(sources), "block_length": block_length, "facts": facts}
    if altered:
        info["altered_share"] = altered / compared
    write_info(directory, info)
    return facts


def _tokenise(
    documents: Iterator[tuple[int, Document]], tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[int, Document, NDArray[np.int32], NDArray[np.bool_]]]:
    """Encode in batches (in parallel, inside the tokenizer) and append the end-of-text token to each document.

    No beginning-of-text token is put before one, even where the tokenizer has such: blocks begin anywhere in a document
    anyway, and every token of a block is scored and may be selected, so it had better be one that somebody wrote.
    """
    encode, end = tokenizer.backend_tokenizer.encode_batch, tokenizer.eos_token_id
    with tqdm(desc="Tokenising", unit=" documents", leave=False, disable=None) as progress:
        while batch := list(islice(documents, DOCUMENTS_AT_ONCE)):
            encodings = encode([document.text for _, document in batch], add_special_tokens=False)
            for (source, document), encoding in zip(batch, encodings, strict=True):
                inside = tokens_in_spans(encoding.offsets, document.spans or ())
                yield source, document, np.array([*encoding.ids, end], np.int32), np.append(inside, False)
            progress.update(len(batch))


def tokens_in_spans(offsets: Iterable[tuple[int, int]], spans: tuple[tuple[int, int], ...]) -> NDArray[np.bool_]:
    """Which tokens share at least one character with a span."""
    return np.array([any(a < end and start < b for a, b in spans) for start, end in offsets], dtype=bool)


def _uniform(text: str, salt: str) -> float:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=salt.encode()[:16]).digest()
    return int.from_bytes(digest, "big") / 2**64


def _split_of(text: str, seed: int, validation: float, test: float) -> int:
    place = _uniform(text, f"split {seed}")
    return 2 if place < test else 1 if place < test + validation else 0


def _copies(weight: float, text: str, seed: int) -> int:
    whole = int(weight)
    return whole + (_uniform(text, f"weight {seed}") < weight - whole)
