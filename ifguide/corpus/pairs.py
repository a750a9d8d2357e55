"""Preference pairs: what direct preference optimisation learns from."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from ifguide.checks import check_limit
from ifguide.corpus.documents import Pair, Prompt, Query
from ifguide.corpus.queries import check_texts_disjoint, encode_queries
from ifguide.corpus.records import read_records
from ifguide.corpus.schema import PAIR

log = logging.getLogger(__name__)


def local_pairs(
    *,
    files: str | Sequence[str],
    prompt: str | None = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    limit: int | None = None,
) -> list[Pair]:
    """Pairs from records of jsonl or parquet files; of those without two different continuations, which are left out,
    the number is said.

    Args:
        files: files or globs.
        prompt: the field of the prompt, which may be null or empty; None: there is none.
        chosen, rejected: fields of the preferred and of the other continuation.
        limit: at most this many pairs.

    Raises:
        ValueError: no such file, a limit below 1, a field that is not there, one that holds no text, or no pair.
    """
    check_limit(limit)
    rows = read_records(files)
    found = [row.read(PAIR, prompt=prompt, chosen=chosen, rejected=rejected) for row in rows]
    pairs = [Pair(before or "", first, second) for before, first, second in found]
    kept = [pair for pair in pairs if pair.chosen != pair.rejected and pair.chosen and pair.rejected]
    if not kept:
        raise ValueError(f"files={files}: none of {len(pairs)} records has two continuations that differ")
    if left_out := len(pairs) - len(kept):
        log.warning("files=%s: %d records without two continuations that differ are left out", files, left_out)
    return kept[:limit]


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Raise ValueError where there is no pair, or a pair without two different continuations."""
    if not pairs:
        raise ValueError("pairs: there is no pair to learn from")
    bad = [n for n, pair in enumerate(pairs) if pair.chosen == pair.rejected or not (pair.chosen and pair.rejected)]
    if bad:
        raise ValueError(
            f"pairs: {len(bad)} have an empty continuation or twice the same; the first is number {bad[0]}"
        )


def check_pairs_disjoint(pairs: Sequence[Pair], prompts: Sequence[Prompt]) -> None:
    """Raise ValueError where an evaluation prompt is the prompt of a pair, or the beginning of one of its texts."""
    check_texts_disjoint([pair.prompt + rest for pair in pairs for rest in pair.responses], prompts, "pairs")


@dataclass(frozen=True)
class EncodedPair:
    """Tokens of prompt and continuation, and which belong to the continuation: of the chosen one, of the other."""

    input_ids: tuple[NDArray[np.int64], NDArray[np.int64]]
    response: tuple[NDArray[np.bool_], NDArray[np.bool_]]


def encode_pairs(
    pairs: Sequence[Pair],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    config: PreTrainedConfig | None = None,
) -> list[EncodedPair]:
    """Tokenise as queries are, for the model of this configuration; both halves have the same prompt.

    Where a pair is longer than `max_length`, the prompt loses its first tokens, but for what a text begins after, and
    each response its end: the prompt keeps half of `max_length`, or what the longer response leaves of it, if that is
    more. A token that is not the same in both halves belongs to the response. Pairs of which the same tokens are left
    are left out.

    Raises:
        ValueError: no pair is left.
    """
    queries = [Query(pair.prompt, rest, False, "") for pair in pairs for rest in pair.responses]
    halves = [(half.input_ids, half.continuation) for half in encode_queries(queries, tokenizer, config=config)]
    encoded = []
    for (chosen, first), (rejected, second) in zip(halves[::2], halves[1::2], strict=True):
        prompt = min(int((~first).sum()), int((~second).sum()))
        same = chosen[:prompt] == rejected[:prompt]
        prompt = prompt if same.all() else int(same.argmin())
        kept = min(prompt, max(max_length // 2, max_length - (max(len(chosen), len(rejected)) - prompt)))
        window = slice(prompt - kept + 1, prompt - kept + max_length)
        ids = np.r_[chosen[:1], chosen[window]], np.r_[rejected[:1], rejected[window]]
        if not np.array_equal(*ids):
            encoded.append(EncodedPair(ids, (np.arange(len(ids[0])) >= kept, np.arange(len(ids[1])) >= kept)))
    if not encoded:
        raise ValueError(f"max_length={max_length}: within so many tokens no pair has two different responses")
    return encoded
