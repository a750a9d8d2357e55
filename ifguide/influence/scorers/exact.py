"""Exact scores of a few blocks, by whichever way of taking them a model knows."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.influence.scorers.base import Direction
from ifguide.influence.scorers.jvp import JVP
from ifguide.objectives.language_modeling import token_losses

REVERSED = 33  # tokens of a block that are scored backward
FAILURES = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # of forms on models they do not know


def exact_scores(
    model: PreTrainedModel, directions: Sequence[Direction], blocks_BT: Tensor, *, fast: bool
) -> tuple[Tensor, Tensor]:
    """Scores along some directions, by forward mode; where an operation of the model has no formula for that, by
    backward passes over the beginning of the first block.

    Args:
        model: not changed.
        fast: try the fast form first.

    Returns:
        [K, B, T], and the [B, T] blocks that they are of.
    """
    for form in ("fast", "reference") if fast else ("reference",):
        try:
            return JVP(form).prepare(copy.deepcopy(model), directions, blocks_BT)(blocks_BT), blocks_BT
        except torch.OutOfMemoryError:
            raise
        except FAILURES:
            continue
    few, clone = blocks_BT[:1, :REVERSED], copy.deepcopy(model)  # some models keep what they computed last
    return torch.stack([reverse_scores(clone, direction, few) for direction in directions]), few


def reverse_scores(model: PreTrainedModel, direction: Direction, blocks_BT: Tensor) -> Tensor:
    """Scores by one backward pass for each token, [B, T]."""
    leaves = {name: model.get_parameter(name).detach().requires_grad_() for name in direction}
    scores = torch.zeros(blocks_BT.shape, dtype=torch.float64)
    with torch.enable_grad():
        logits = torch.func.functional_call(model, leaves, (blocks_BT,), {"use_cache": False}).logits
        losses = token_losses(logits, blocks_BT)
        for place in [(row, token) for row in range(len(losses)) for token in range(1, losses.shape[1])]:
            gradients = torch.autograd.grad(losses[place], list(leaves.values()), retain_graph=True, allow_unused=True)
            for name, gradient in zip(leaves, gradients, strict=True):
                if gradient is not None:
                    scores[place] += (gradient.double() * direction[name].double()).sum().item()
    return scores.to(blocks_BT.device)
