"""The chain from a model to a mask: factors → direction → scores → mask. Stages and the training callback share it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any, ClassVar

from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import check_seed, check_whole_number
from ifguide.corpus.blocks import Split
from ifguide.corpus.documents import Query
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.queries import encode_queries, halves
from ifguide.hardware import AUTO, BFLOAT16
from ifguide.inference import check_dtype
from ifguide.influence.curvature import Curvature
from ifguide.influence.diagnostics import split_half_correlation
from ifguide.influence.direction import gradient_dtype, precondition_direction, query_gradient
from ifguide.influence.scorers.base import norm
from ifguide.influence.scoring import SAMPLE_TOKENS, BlockSampler, sample_rows
from ifguide.influence.selection import Algorithm1, Selection
from ifguide.influence.top import TopTokens
from ifguide.models import tracked_layers
from ifguide.processes import ALONE, Processes

Rule = Algorithm1 | TopTokens  # scores, starts of documents → a selection


@dataclass(frozen=True)
class InfluenceSettings:
    """What the whole chain shares.

    Args:
        seed: of the blocks that curvature is fitted on, and of their sampled labels.
        layers: only layers in whose name this regular expression is found, as in `mlp`; None: all tracked layers.
        last_blocks: only this many of the last decoder blocks; None: all.
        dtype: of the model while it scores (`ifguide.influence.low_precision.prepare_in`), and of the products of query
            gradients (`ifguide.influence.direction.gradient_dtype`).
        batch_size: blocks at a time when fitting and scoring, queries at a time.
        shard_blocks: blocks per file of scores while they are written, the unit of resuming.

    Raises:
        ValueError: a setting out of range.
    """

    NOT_SETTINGS: ClassVar[tuple[str, ...]] = ("dtype", "batch_size", "shard_blocks")

    seed: int = 0
    layers: str | None = None
    last_blocks: int | None = None
    dtype: str = AUTO
    batch_size: int = 16
    shard_blocks: int = 256

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("batch_size", "shard_blocks"):
            check_whole_number(name, getattr(self, name), least=1)
        if self.last_blocks is not None:
            check_whole_number("last_blocks", self.last_blocks, least=1)
        check_dtype(self.dtype)
        try:
            re.compile(self.layers or "")
        except (re.error, TypeError) as error:
            raise ValueError(f"layers={self.layers}: not a regular expression ({error})") from None

    @property
    def rounding(self) -> dict[str, str]:
        """What decides a direction beside the settings: bfloat16 that was asked for, and not held against float32."""
        return {"dtype": self.dtype} if self.dtype == BFLOAT16 else {}

    def layer_names(self, model: PreTrainedModel) -> list[str]:
        """Names of the tracked layers of a model."""
        return list(tracked_layers(model, match=self.layers, last_blocks=self.last_blocks))


def fit_factors(
    model: PreTrainedModel,
    split: Split,
    curvature: Curvature,
    settings: InfluenceSettings,
    *,
    progress: bool,
    processes: Processes = ALONE,
) -> tuple[dict[str, Tensor], int]:
    """Factors of the curvature on a sample of training blocks, and the number of these."""
    rows = sample_rows(len(split), curvature.blocks, settings.seed)
    factors = curvature.fit(
        model,
        split.tokens(rows),
        batch_size=settings.batch_size,
        seed=settings.seed,
        layers=settings.layer_names(model),
        progress=progress,
        processes=processes,
    )
    return factors, len(rows)


def find_gradient(
    model: PreTrainedModel,
    settings: InfluenceSettings,
    queries: Sequence[Query],
    tokenizer: PreTrainedTokenizerFast,
    *,
    block_length: int,
    processes: Processes = ALONE,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The gradient g of some queries over the tracked parameters, and facts for the manifest."""
    encoded = encode_queries(queries, tokenizer, block_length, model.config)
    given: dict[str, Any] = {"batch_size": settings.batch_size, "layers": settings.layer_names(model)}
    dtype, facts = gradient_dtype(model, encoded, **given, dtype=settings.dtype)
    found = query_gradient(model, encoded, **given, dtype=dtype, processes=processes)
    return found, {
        "positive_queries": sum(query.toxic for query in encoded),
        "negative_queries": sum(not query.toxic for query in encoded),
        "gradient_dtype": dtype,
        **facts,
    }


def find_direction(
    model: PreTrainedModel,
    factors: Mapping[str, Mapping[str, Tensor]],
    curvature: Curvature,
    settings: InfluenceSettings,
    queries: Sequence[Query],
    tokenizer: PreTrainedTokenizerFast,
    *,
    block_length: int,
    processes: Processes = ALONE,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The direction v of some queries, and facts for the manifest.

    Args:
        factors: layer → factor → tensor.
        block_length: longest query, in tokens.
        processes: among which the queries are shared.
    """
    gradient, facts = find_gradient(model, settings, queries, tokenizer, block_length=block_length, processes=processes)
    direction = precondition_direction(model, gradient, factors, curvature)
    return direction, facts | {"gradient_norm": norm(gradient), "direction_norm": norm(direction)}


def direction_reliability(
    model: PreTrainedModel,
    factors: Mapping[str, Mapping[str, Tensor]],
    curvature: Curvature,
    settings: InfluenceSettings,
    queries: Sequence[Query],
    tokenizer: PreTrainedTokenizerFast,
    split: Split,
    dtype: str,
    processes: Processes = ALONE,
) -> float | None:
    """How much scores along directions of two halves of the queries agree (`split_half_correlation`), on a sample of
    the blocks that curvature is fitted on; None where a class has not two queries.

    The gradients of both halves are taken in `dtype`. The model's weights are rounded on the way.
    """
    parts = halves(queries)
    if any(not {query.toxic for query in queries} <= {query.toxic for query in part} for part in parts):
        return None
    length = split.block_length
    shared = (model, factors, curvature, replace(settings, dtype=dtype))
    found = (find_direction(*shared, part, tokenizer, block_length=length, processes=processes) for part in parts)
    directions = [direction for direction, _ in found]
    sample = BlockSampler(split.tokens, split.shape, settings.seed)(SAMPLE_TOKENS)
    return split_half_correlation(model, directions, sample, batch_size=settings.batch_size, processes=processes)


def select_behaviours(
    selection: Rule,
    behaviours: Sequence[str],
    scores_KBT: NDArray[Any] | Sequence[NDArray[Any]],
    document_starts: NDArray[Any],
) -> tuple[TokenMask, dict[str, Selection]]:
    """The mask of all behaviours together, and the selection of each."""
    selections = {name: selection(column, document_starts) for name, column in zip(behaviours, scores_KBT, strict=True)}
    return reduce(or_, [one.mask for one in selections.values()]), selections
