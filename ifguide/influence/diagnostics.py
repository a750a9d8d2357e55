"""Whether what the chain makes can be trusted: what a proxy has learned, how noisy scores are, what a mask holds."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.corpus.blocks import Split
from ifguide.corpus.documents import Query
from ifguide.corpus.masks import TokenMask
from ifguide.influence.scorers import Direction
from ifguide.influence.scorers.base import norm
from ifguide.influence.word_keys import WordKeys
from ifguide.objectives.language_modeling import token_losses
from ifguide.processes import ALONE, Processes, joined

STEP = 3e-3  # of a difference, as a share of the tracked weights' norm
COUNTED_BLOCKS = 4096  # of the training split, at most, for a unigram model
ROWS = 4096  # of a mask at a time


def unigram_loss(train: Split, other: Split, vocabulary: int) -> float:
    """Mean loss, in nats per token, of other blocks under the counts of (some) training blocks, with one added to each.

    Column 0 is left out, as it is of a model's loss.
    """
    counts = np.bincount(train.tokens(slice(0, COUNTED_BLOCKS)).ravel(), minlength=vocabulary) + 1.0
    return float(-np.log(counts / counts.sum())[other.tokens(slice(0, None))[:, 1:]].mean())


def mean_loss(
    model: PreTrainedModel, blocks_BT: NDArray[np.int64], *, batch_size: int, processes: Processes = ALONE
) -> float:
    """Mean loss of a model on some blocks, in nats per predicted token."""
    return float(predicted_losses(model, blocks_BT, batch_size=batch_size, processes=processes).mean())


@torch.no_grad()
def predicted_losses(
    model: PreTrainedModel, blocks_BT: NDArray[np.int64], *, batch_size: int, processes: Processes = ALONE
) -> NDArray[np.float64]:
    """Losses of the predicted tokens of some blocks, flat."""
    losses = np.zeros((len(blocks_BT), blocks_BT.shape[1] - 1))
    mine = processes.share(np.split(np.arange(len(blocks_BT)), range(batch_size, len(blocks_BT), batch_size)))
    for rows in mine:
        ids = torch.from_numpy(blocks_BT[rows]).to(model.device)
        losses[rows] = token_losses(model(input_ids=ids, use_cache=False).logits, ids)[:, 1:].double().cpu().numpy()
    processes.fill(joined(mine), losses)
    return losses.ravel()


@torch.no_grad()
def score_changes(
    model: PreTrainedModel,
    direction: Mapping[str, Tensor],
    blocks_BT: NDArray[np.int64],
    *,
    batch_size: int,
    processes: Processes = ALONE,
) -> NDArray[np.float64]:
    """Scores up to a factor, flat, by a central difference of the losses: rough, and of any architecture.

    Args:
        model: moved along the direction and back again, which rounds its weights.
        direction: parameter name → tensor of its shape.
        blocks_BT: token ids.
        batch_size: blocks at a time.
        processes: among which the blocks are shared.
    """
    parameters = {name: model.get_parameter(name) for name in direction}
    moving = {name: value.to(parameters[name]) for name, value in direction.items()}
    step = STEP * norm(parameters) / max(norm(moving), 1e-30)
    sides = []
    for shift in (step, -2 * step):
        for name, value in moving.items():
            parameters[name].add_(value, alpha=shift)
        sides.append(predicted_losses(model, blocks_BT, batch_size=batch_size, processes=processes))
    for name, value in moving.items():
        parameters[name].add_(value, alpha=step)
    return sides[0] - sides[1]


def split_half_correlation(
    model: PreTrainedModel,
    directions: Sequence[Direction],
    blocks_BT: NDArray[np.int64],
    *,
    batch_size: int,
    processes: Processes = ALONE,
) -> float:
    """Pearson correlation, over the tokens of some blocks, of the scores along the directions of two halves.

    That of the whole is higher: 2r / (1 + r) by Spearman and Brown's formula. Scores along no direction at all
    correlate with nothing: 0.
    """
    one, other = (
        score_changes(model, each, blocks_BT, batch_size=batch_size, processes=processes) for each in directions
    )
    if min(one.std(), other.std()) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def on_both_sides(queries: Sequence[Query]) -> int:
    """How many continuations, case and blanks aside, show the behaviour and do not."""
    sides = [
        {" ".join(q.continuation.casefold().split()) for q in queries if q.toxic is shows} for shows in (True, False)
    ]
    return len(sides[0] & sides[1])


def mask_shape(mask: TokenMask, split: Split, texts: Sequence[str]) -> dict[str, float]:
    """What a mask is made of.

    Args:
        mask: of the split's blocks.
        split: the blocks, and the documents they come from.
        texts: the text of every token id.

    Returns:
        `documents` with a selected token; `largest_document`, the share of the selected tokens in one document;
        `fragments`, the share of them in words of which other tokens are not selected.
    """
    keys, length = WordKeys.of(texts), split.block_length
    per_document = np.zeros(len(split.documents), dtype=np.int64)
    fragments = 0
    for first in range(0, len(mask), ROWS):
        rows = first + np.flatnonzero(mask[first : first + ROWS].any(1))
        if not len(rows):
            continue
        chosen = mask[rows]
        positions = (rows[:, None] * length + np.arange(length))[chosen]
        per_document += np.bincount(split.documents_of(positions), minlength=len(per_document))
        word = keys.words(torch.from_numpy(split.tokens(rows)))[0].numpy()
        whole, selected = (
            np.bincount(values, minlength=int(word.max()) + 1) for values in (word.ravel(), word[chosen])
        )
        fragments += int(selected[selected < whole].sum())
    total = max(int(per_document.sum()), 1)
    return {
        "documents": int((per_document > 0).sum()),
        "largest_document": float(per_document.max(initial=0) / total),
        "fragments": fragments / total,
    }
