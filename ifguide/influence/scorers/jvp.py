"""Exact token scores by forward-mode differentiation: one Jacobian-vector product scores every token of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.forward_ad import dual_level, unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from ifguide.influence.scorers.base import Direction, TokenScorer, check_evaluation_mode, check_tracked, same_parameters
from ifguide.influence.scorers.head import split_output_head
from ifguide.influence.scorers.tangents import (
    Maps,
    Tangent,
    carry_tangents,
    embeddings_moved,
    layer_tangents,
    take_formulas,
    tangent_maps,
    tangents_installed,
    unfused_attention,
)
from ifguide.objectives.language_modeling import precise

# K directions, B blocks, T tokens, D hidden size, V vocabulary

FORMS = ("fast", "reference")


@dataclass(frozen=True)
class JVP:
    """s[n,t] = ⟨v, ∇θ ℓ[n,t]⟩, the directional derivative of the token's own loss (IF-Guide, Eq. 8).

    Forward mode computes it for all tokens of all blocks without storing activations. Several directions share the
    undisturbed pass and the output head.

    Args:
        form: `fast`: own tangent rules for linear layers, norms and attention, and a chunked output head;
            `reference`: `torch.func.jvp` of the unchanged model with unfused attention, for any architecture.
        rank: keep this many singular values of each layer's direction (fast form): less arithmetic, no longer exact;
            the manifest says what share of the direction is lost. None: all of it.

    Raises:
        ValueError: unknown form, or a rank below 1 or with the reference form.
    """

    DTYPES: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    OWN_LOSS: ClassVar[bool] = True

    form: str = "fast"
    rank: int | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form={self.form}; known: {', '.join(FORMS)}")
        if self.rank is not None and (self.rank < 1 or self.form == "reference"):
            raise ValueError(f"rank={self.rank}: a rank is at least 1, and only form=fast takes one")

    @property
    def allowed_error(self) -> float:
        return 0.0

    def complete(self) -> "JVP | None":
        return None if self.form == "reference" else JVP()

    def passes(self, directions: int) -> tuple[float, float]:
        # the fast head reads hidden states twice, whatever the directions are
        return (1 + 2 * directions, 2) if self.form == "fast" else (3 * directions, 3 * directions)

    def prepare(self, model: PreTrainedModel, directions: Sequence[Direction], sample_BT: Tensor) -> TokenScorer:
        check_evaluation_mode(model)
        directions = same_parameters(directions)
        if self.form == "reference":
            take_formulas(model)
            return TokenScorer(lambda ids: torch.stack([reference_scores(model, v, ids) for v in directions]))
        check_tracked(model, directions[0])
        return self._prepare_fast(model, directions)

    def _prepare_fast(self, model: PreTrainedModel, directions: Sequence[Direction]) -> TokenScorer:
        body, head = split_output_head(model)
        carry_tangents(model, batched=len(directions) > 1)
        per_direction = [layer_tangents(model, direction, self.rank) for direction in directions]
        facts: dict[str, Any] = {}
        if self.rank is not None:
            facts = {"rank": self.rank, "share_of_direction_lost": [lost for _, lost in per_direction]}
        names = per_direction[0][0]
        with_bias = {name for name in names if f"{name}.bias" in directions[0]}
        stacked: dict[str, Tangent] = {
            name: tuple(torch.stack(parts) for parts in zip(*(t[name] for t, _ in per_direction), strict=True))
            for name in names
        }

        maps = tangent_maps(per_direction[0][0], with_bias, batched=False) if len(directions) == 1 else {}

        def one(input_ids: Tensor) -> tuple[Tensor, Tensor]:
            hidden, tangent = hidden_tangents(model, body, maps, input_ids)
            return hidden, tangent[None]

        def of_direction(tangents: dict[str, Tangent], input_ids: Tensor) -> tuple[Tensor, Tensor]:
            batched = tangent_maps(tangents, with_bias, batched=True)

            def from_offset(offset: Tensor) -> Tensor:
                with tangents_installed(model, batched), embeddings_moved(model, offset):
                    return body(input_ids)

            zero = torch.zeros((), dtype=model.dtype, device=model.device)
            with unfused_attention(model):
                return torch.func.jvp(from_offset, (zero,), (zero,))  # type: ignore[return-value]

        # only duals of torch.func can be batched over directions, and only what a dual has touched is one
        several = torch.func.vmap(of_direction, in_dims=(0, None), out_dims=(None, 0))  # type: ignore[arg-type]

        def score(input_ids: Tensor) -> Tensor:
            with torch.no_grad():
                hidden, tangents = one(input_ids) if len(directions) == 1 else several(stacked, input_ids)
                return head.loss_tangents(hidden, tangents, input_ids)

        return TokenScorer(score, facts)


def hidden_tangents(
    model: PreTrainedModel, body: Callable[[Tensor], Tensor], maps: dict[str, Maps], input_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Last hidden states and their tangents along one direction, [B, T, D] each.

    Args:
        model: one that carries tangents (`carry_tangents`).
        body: of that model.
        maps: the direction, layer by layer (`tangent_maps`).
        input_ids: [B, T].
    """
    with tangents_installed(model, maps), unfused_attention(model), dual_level():
        hidden, tangent = unpack_dual(body(input_ids))
        return hidden, torch.zeros_like(hidden) if tangent is None else tangent


def reference_scores(model: PreTrainedModel, direction: Direction, input_ids: Tensor) -> Tensor:
    """Scores of some blocks by `torch.func.jvp` of the whole model, [B, T].

    Fused attention kernels have no forward-mode formula, so attention runs unfused.
    """
    primals = {name: model.get_parameter(name).detach() for name in direction}

    def logits_of(parameters: dict[str, Tensor]) -> Tensor:
        logits: Tensor = torch.func.functional_call(model, parameters, (input_ids,), {"use_cache": False}).logits
        return logits

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        logits_BTV, tangents_BTV = torch.func.jvp(logits_of, (primals,), (dict(direction),))  # type: ignore[misc]
        return loss_tangents(logits_BTV, tangents_BTV, input_ids)


def loss_tangents(logits_BTV: Tensor, tangents_BTV: Tensor, input_ids_BT: Tensor) -> Tensor:
    """Tangent of every token's loss from the logits and their tangents: Σ_v p(v) ż(v) − ż(x).

    Returns:
        [B, T] in float32 at least; column 0 is 0.
    """
    tangents = precise(tangents_BTV[:, :-1])
    probabilities = logits_BTV[:, :-1].to(tangents.dtype).softmax(-1)
    expected = (probabilities * tangents).sum(-1)
    own = tangents.gather(-1, input_ids_BT[:, 1:, None]).squeeze(-1)
    return F.pad(expected - own, (1, 0))
