"""Scores in bfloat16, where hardware computes it and those of a sample are, but for rounding, those in float32."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ifguide.hardware import AUTO, BFLOAT16, FLOAT32
from ifguide.inference import is_faster_rounded
from ifguide.influence.scorers import Direction, Scorer, TokenScorer
from ifguide.influence.scoring import BlockSampler, prepare_scorer, score_blocks

CORRELATION, JACCARD = 0.9995, 0.98  # with float32, at least: of scores, and of the highest of them
HIGHEST = 0.02  # of the tokens
CHECK_TOKENS, BATCH = 1 << 14, 16  # tokens that are compared; blocks at a time
LEAST_TOKENS = 1 << 18  # of a corpus: comparing costs a small part of scoring it


def prepare_in(
    dtype: str,
    scorer: Scorer,
    model: PreTrainedModel,
    directions: Sequence[Direction],
    sampler: BlockSampler,
) -> TokenScorer:
    """`prepare_scorer` with the model in a dtype.

    Args:
        dtype: `float32`, `bfloat16`, or `auto`: bfloat16 where the model is faster in it (`is_faster_rounded`), the
            scorer takes it, the corpus has `LEAST_TOKENS`, and the scores of a sample agree with those in float32
            (`CORRELATION`, `JACCARD`); else float32.
        scorer, model, directions, sampler: as in `prepare_scorer`; the model is taken over.

    Returns:
        The scorer; its facts tell the `dtype`, and where both were computed how they agree, under `float32_check`.
    """
    if dtype != AUTO:
        prepared = prepare_scorer(scorer, model.to(getattr(torch, dtype)), directions, sampler)
        return TokenScorer(prepared.score, {**prepared.facts, "dtype": dtype})
    worth = math.prod(sampler.shape) >= LEAST_TOKENS and BFLOAT16 in scorer.DTYPES
    both = worth and is_faster_rounded(model)
    exact = prepare_scorer(scorer, (copy.deepcopy(model) if both else model).float(), directions, sampler)
    if not both:
        return TokenScorer(exact.score, {**exact.facts, "dtype": FLOAT32})
    rounded = prepare_scorer(scorer, model.bfloat16(), directions, sampler)
    ids = sampler(CHECK_TOKENS)
    found = agreement(*(score_blocks(one, ids, batch_size=BATCH, device=model.device) for one in (rounded, exact)))
    agrees = found["correlation"] >= CORRELATION and found["mask_jaccard"] >= JACCARD
    chosen, name = (rounded, BFLOAT16) if agrees else (exact, FLOAT32)
    return TokenScorer(chosen.score, {**chosen.facts, "dtype": name, "float32_check": {"tokens": ids.size, **found}})


def agreement(ours_KBT: NDArray[Any], exact_KBT: NDArray[Any]) -> dict[str, float]:
    """Correlation of scores, and Jaccard index of the `HIGHEST` of them; of several behaviours the least.

    First tokens of blocks, which have no score, are left out.
    """
    pairs = [(ours[:, 1:], exact[:, 1:]) for ours, exact in zip(ours_KBT, exact_KBT, strict=True)]
    return {
        "correlation": min(float(np.corrcoef(ours.ravel(), exact.ravel())[0, 1]) for ours, exact in pairs),
        "mask_jaccard": min(_overlap(ours, exact) for ours, exact in pairs),
    }


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> float:
    count = max(1, round(HIGHEST * a.size))
    ours, exact = (np.argsort(-scores, axis=None, kind="stable")[:count] for scores in (a, b))
    both = len(np.intersect1d(ours, exact))
    return both / (2 * count - both)
