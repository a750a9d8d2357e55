"""The library: score and mask a data set of one's own, with a model of one's own, in memory.

The chain is that of a run (`ifguide.influence.chain`): blocks → curvature → direction → scores → pooled scores → mask.
A model that is handed in is copied, never changed.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ifguide.corpus.blocks import Split
from ifguide.corpus.dataset_blocks import make_blocks, own_tokenizer
from ifguide.corpus.documents import Query
from ifguide.corpus.export import MaskedSplit
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.queries import check_queries
from ifguide.corpus.tokenizers import token_texts, vocabulary_size
from ifguide.influence.chain import (
    InfluenceSettings,
    Rule,
    find_gradient,
    fit_factors,
    select_behaviours,
)
from ifguide.influence.conjugate_gradients import ConjugateGradients
from ifguide.influence.curvature import Curvature
from ifguide.influence.damped_system import DampedSystem, check_refinable
from ifguide.influence.direction import precondition_direction
from ifguide.influence.factors import by_layer
from ifguide.influence.low_precision import prepare_in
from ifguide.influence.pooling import Pooling, TypePooling, WordPooling, chunks
from ifguide.influence.scorers import JVP, Direction, Scorer
from ifguide.influence.scorers.base import check_dtype
from ifguide.influence.scoring import BlockSampler, sample_rows, score_blocks
from ifguide.influence.selection import Algorithm1
from ifguide.models import check_vocabulary, tracked_parameters
from ifguide.opening import check_context

__all__ = ["export", "fit_curvature", "make_blocks", "make_direction", "masked_dataset", "pool", "score", "select"]

Scores = dict[str, NDArray[np.float32]]
"""Behaviour → [blocks, block length]; `scores[name][n, t]` belongs to token t of block n."""

QueryTexts = Sequence[str | tuple[str, str]]
"""Continuations, each alone or after a prompt: `(prompt, continuation)`."""

WORDS_IN_CONTEXT = WordPooling(types=TypePooling(context_weight=4.0, reach=8.0))  # conf/pooling/word_context.yaml


@dataclass(frozen=True)
class FittedCurvature:
    """What `fit_curvature` leaves for `make_direction`.

    Attributes:
        factors: layer → factor → tensor; empty for the identity.
        curvature, influence: the settings that they were fitted with.
        block_length: of the blocks.
    """

    factors: Mapping[str, Mapping[str, Tensor]]
    curvature: Curvature
    influence: InfluenceSettings
    block_length: int


def fit_curvature(
    model: PreTrainedModel,
    blocks: Split,
    *,
    curvature: Curvature | None = None,
    influence: InfluenceSettings | None = None,
    progress: bool = True,
) -> FittedCurvature:
    """Fit the curvature of a model on a sample of blocks.

    Args:
        model: the proxy, on the device that computes.
        blocks: of the text that it was trained on.
        curvature: strategy, number of blocks and damping; None: EK-FAC on 512.
        influence: which layers, seed, blocks at a time; None: all tracked layers, 16.
        progress: show progress bars.

    Raises:
        ValueError: blocks that the model cannot read, or factors that cannot be used.
    """
    curvature, influence = curvature or Curvature(), influence or InfluenceSettings()
    check_context(model.config, blocks.block_length, "block_length")
    factors, _ = fit_factors(_copied(model), blocks, curvature, influence, progress=progress)
    return FittedCurvature(by_layer(factors), curvature, influence, blocks.block_length)


def make_direction(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    fitted: FittedCurvature,
    *,
    positive: QueryTexts,
    negative: QueryTexts,
    refine: ConjugateGradients | None = None,
    blocks: Split | None = None,
) -> dict[str, Tensor]:
    """The direction in parameter space that tells a behaviour from its absence.

    Args:
        model: the one that the curvature was fitted on.
        tokenizer: its own.
        fitted: the curvature.
        positive: texts that show the behaviour.
        negative: texts that do not.
        refine: solve with the exact Gauss–Newton matrix, too, by conjugate gradients; None: the curvature alone.
        blocks: what that matrix is a mean over is sampled from these; only with `refine`.

    Returns:
        Parameter name → tensor of its shape.

    Raises:
        ValueError: an empty set, something else than texts, a tokenizer that the model has no embeddings for, or
            `refine` without blocks or damping.
    """
    if (refine is None) != (blocks is None):
        raise ValueError("refine: it needs blocks, and nothing else does; give both or none")
    if refine is not None:
        check_refinable(fitted.curvature)
    queries = [*_queries("positive", positive, True), *_queries("negative", negative, False)]
    own = own_tokenizer(tokenizer)
    check_vocabulary(model, vocabulary_size(own))
    check_queries(queries)
    copied, settings = _copied(model), fitted.influence
    gradient, _ = find_gradient(copied, settings, queries, own, block_length=fitted.block_length)
    direction = precondition_direction(copied, gradient, fitted.factors, fitted.curvature)
    if refine is None or blocks is None:
        return direction
    rows = sample_rows(len(blocks), refine.blocks, refine.seed)
    system = DampedSystem(
        copied, refine, fitted.curvature, fitted.factors, gradient=gradient,
        blocks_BT=torch.from_numpy(blocks.tokens(rows)), batch_size=settings.batch_size,
    )  # fmt: skip
    start, image, _ = system.start(direction)
    *_, last = system.solve(start, image)
    return system.layout.split(last.solution)


def score(
    model: PreTrainedModel,
    blocks: Split,
    directions: Mapping[str, Direction],
    *,
    scorer: Scorer | None = None,
    influence: InfluenceSettings | None = None,
    progress: bool = True,
) -> Scores:
    """Score every token of some blocks along directions.

    Args:
        model: the one that the directions were made with.
        blocks: what is scored, into memory, 4 bytes a token and behaviour; a larger corpus is for `stage=scores`.
        directions: behaviour → direction.
        scorer: how; None: exact scores (`JVP()`).
        influence: dtype of the model, blocks at a time; None: `InfluenceSettings()`.
        progress: show a progress bar.

    Raises:
        ValueError: no direction, one of another model, or a dtype that the scorer does not take.
    """
    chosen: Scorer = JVP() if scorer is None else scorer
    influence = influence or InfluenceSettings()
    check_dtype(chosen, influence.dtype)
    if not directions:
        raise ValueError("directions: there are none; make_direction makes one")
    shapes = {name: parameter.shape for name, parameter in tracked_parameters(model).items()}
    for behaviour, direction in directions.items():
        if wrong := [name for name, value in direction.items() if shapes.get(name) != value.shape]:
            raise ValueError(f"directions: that of {behaviour} was made with another model, which has {wrong[0]}")
    check_context(model.config, blocks.block_length, "block_length")
    shape, size = (len(directions), *blocks.shape), influence.batch_size
    own = _copied(model)
    sampler = BlockSampler(blocks.tokens, blocks.shape, influence.seed)
    prepared = prepare_in(influence.dtype, chosen, own, list(directions.values()), sampler)
    scores = np.empty(shape, np.float32)
    for first in tqdm(range(0, len(blocks), size), desc="Scores", leave=False, disable=None if progress else True):
        rows = slice(first, first + size)
        scores[:, rows] = score_blocks(prepared, blocks.tokens(rows), batch_size=size, device=own.device)
    return dict(zip(directions, scores, strict=True))


def pool(
    scores: Scores, blocks: Split, tokenizer: PreTrainedTokenizerBase, *, pooling: Pooling = WORDS_IN_CONTEXT
) -> Scores:
    """Replace each score by what scores of the same word, and of the words around, have in common.

    Args:
        scores: of the blocks.
        blocks: what was scored.
        tokenizer: of the blocks.
        pooling: how; the default is that of a run (`pooling=word_context`).
    """
    texts, pooled = token_texts(own_tokenizer(tokenizer)), {}
    for behaviour, column in scores.items():
        table, _ = pooling.fit(column[None], blocks.tokens, texts)
        parts = [table.scores(torch.from_numpy(blocks.tokens(rows)))[0].numpy() for rows in chunks(column.shape)]
        pooled[behaviour] = np.concatenate(parts)
    return pooled


def select(scores: Scores, blocks: Split, *, selection: Rule | None = None) -> TokenMask:
    """Select the tokens that teach one of the behaviours; `mask[:]` are booleans, [blocks, block length].

    Args:
        scores: single or pooled.
        blocks: what was scored.
        selection: the rule; None: the paper's (2 % of all tokens).
    """
    columns = list(scores.values())
    return select_behaviours(selection or Algorithm1(), list(scores), columns, blocks.documents["start"])[0]


def masked_dataset(blocks: Split, mask: TokenMask, scores: Scores, *, unit: str = "block") -> Dataset:
    """A data set with `input_ids`, `mask` and `scores`, which `MaskedCollator` reads; it is in memory.

    Args:
        blocks: what was scored.
        mask: of the blocks.
        scores: of the blocks.
        unit: what a row is: `block`, or `document`, with its `record`.

    Raises:
        ValueError: a mask or scores of other blocks, or an unknown unit.
    """
    masked = MaskedSplit(blocks, mask, scores)
    return Dataset(pa.Table.from_batches(masked.batches(unit)))


def export(
    folder: str | Path,
    blocks: Split,
    mask: TokenMask,
    scores: Scores,
    tokenizer: PreTrainedTokenizerBase,
    *,
    unit: str = "block",
) -> dict[str, int]:
    """Write what `stage=export` writes into a folder: selected documents with spans, and `masked_dataset`.

    Args:
        folder: gets `documents.jsonl`, `documents.parquet` and `dataset/`.
        blocks, mask, scores, unit: as in `masked_dataset`.
        tokenizer: of the blocks.

    Returns:
        How many documents, spans, rows and selected tokens there are.

    Raises:
        ValueError: as in `masked_dataset`.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    return MaskedSplit(blocks, mask, scores).export(Path(folder), own_tokenizer(tokenizer), unit=unit)


def _copied(model: PreTrainedModel) -> PreTrainedModel:
    own: PreTrainedModel = copy.deepcopy(model).float().eval()
    return own


def _queries(name: str, texts: QueryTexts, shows: bool) -> list[Query]:
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"{name}: a list of texts, or of pairs (prompt, continuation), of at least one")
    queries = []
    for index, text in enumerate(texts):
        pair = ("", text) if isinstance(text, str) else tuple(text) if isinstance(text, list | tuple) else ()
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"{name}[{index}]={text!r}: neither a text nor a pair (prompt, continuation)")
        queries.append(Query(prompt=pair[0], continuation=pair[1], toxic=shows, record=f"{name}[{index}]"))
    return queries
