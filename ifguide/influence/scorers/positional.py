"""The reference implementation's scores: the summed loss, split by position."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ifguide.influence.scorers.base import (
    Direction,
    TokenScorer,
    check_evaluation_mode,
    check_tracked,
    moves,
    same_parameters,
    weight_of,
)
from ifguide.models import layer_matrix, tracked_layers
from ifguide.objectives.language_modeling import token_losses

# K directions, B blocks, T tokens, E inputs of a layer

ALIGNMENTS = ("predicted", "as_published")


@dataclass(frozen=True)
class Positional:
    """⟨v, ∇θ Σ_t ℓ[n,t]⟩ split by the position at which a layer acts: kronfluence's per-token scores.

    A position's part mixes the losses of all later tokens, so it is not the token's own influence; its sum over a
    block is the block's. Kept for comparison with the paper's published code.

    Args:
        alignment: `predicted`: the part of position t − 1 goes to token t, the one that position predicts;
            `as_published`: to the token *at* the position, as the reference code marks it, one off (the part of a
            block's first position is then left out, and its last token gets 0).

    Raises:
        ValueError: unknown alignment.
    """

    DTYPES: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    OWN_LOSS: ClassVar[bool] = False

    alignment: str = "predicted"

    def __post_init__(self) -> None:
        if self.alignment not in ALIGNMENTS:
            raise ValueError(f"alignment={self.alignment}; known: {', '.join(ALIGNMENTS)}")

    @property
    def allowed_error(self) -> float:
        return 0.0

    def complete(self) -> "Positional":
        return Positional()  # as published, the part of the first position is left out

    def passes(self, directions: int) -> tuple[float, float]:
        return 2 + 2 * directions, 2

    def prepare(self, model: PreTrainedModel, directions: Sequence[Direction], sample_BT: Tensor) -> TokenScorer:
        check_evaluation_mode(model)
        directions = same_parameters(directions)
        check_tracked(model, directions[0])
        for parameter in model.parameters():
            parameter.requires_grad_(False)

        def score(input_ids: Tensor) -> Tensor:
            parts = position_scores(model, directions, input_ids)
            if self.alignment == "predicted":
                return F.pad(parts[..., :-1], (1, 0))
            return F.pad(parts[..., 1:], (1, 0))

        return TokenScorer(score)


def position_scores(model: PreTrainedModel, directions: Sequence[Direction], input_ids: Tensor) -> Tensor:
    """The derivative of the summed loss with respect to how far each position's layers are moved along a direction.

    Every tracked layer's output at position t gets τ[t]·(V x[t] + b_v); the gradient of the sum of losses by τ at 0 is
    the split.

    Returns:
        [K, B, T]; the last position predicts nothing, its part is 0.
    """
    amounts = torch.zeros(len(directions), *input_ids.shape, dtype=model.dtype, device=model.device, requires_grad=True)
    with torch.enable_grad(), _moved_by_position(model, directions, amounts):
        losses = token_losses(model(input_ids=input_ids, use_cache=False).logits, input_ids)
        return torch.autograd.grad(losses.sum(), amounts)[0]


@contextmanager
def _moved_by_position(model: PreTrainedModel, directions: Sequence[Direction], amounts: Tensor) -> Iterator[None]:
    handles = []
    for name, module in tracked_layers(model).items():
        if not moves(directions[0], name):
            continue
        matrices = [layer_matrix(module, weight_of(v, name, module), v.get(f"{name}.bias")) for v in directions]

        def move(
            module: nn.Module,
            inputs: tuple[Tensor, ...],
            output: Tensor,
            name: str = name,
            matrices: list[Tensor] = matrices,
        ) -> Tensor:
            x = inputs[0]
            if matrices[0].shape[1] > x.shape[-1]:
                x = F.pad(x, (0, 1), value=1.0)  # the bias's input
            if x.shape[:-1].numel() != amounts[0].numel():
                raise ValueError(f"{name} is not given a row for every token: use scorer=jvp")
            for amount, matrix in zip(amounts, matrices, strict=True):  # some layers are given the blocks as one
                output = output + amount.reshape(*x.shape[:-1], 1) * (x @ matrix.T)
            return output

        handles.append(module.register_forward_hook(move))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
