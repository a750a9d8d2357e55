"""Products with the exact Gauss–Newton matrix of a model, without ever making it.

G = mean over blocks of Σ_t J_tᵀ (diag p_t − p_t p_tᵀ) J_t, with J_t the derivative of the logits at position t with
respect to the tracked parameters and p_t the model's probabilities there (Martens, 2020, section 8). It is what the
factors of `ifguide.influence.curvature` approximate layer by layer: the second moment of whole-block gradients under
labels that are sampled from the model. Gv is one forward-mode pass for ż = Jv, the vector u = p ∘ (ż − pᵀż) at each
position, and one backward pass for Jᵀu; the logits are taken in chunks.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from ifguide.influence.direction import gradients_of
from ifguide.influence.scorers.base import Direction, norm
from ifguide.influence.scorers.head import split_output_head
from ifguide.influence.scorers.jvp import FORMS, hidden_tangents
from ifguide.influence.scorers.tangents import carry_tangents, layer_tangents, take_formulas, tangent_maps

# B blocks, T tokens, D hidden size, V vocabulary

Batches = Sequence[Tensor]  # [B, T] token ids each
Product = Callable[[Direction, Batches], dict[str, Tensor]]  # Σ over blocks: not yet a mean
ALLOWED = 1e-2  # difference of the two forms of a product, over the norm of the reference's


def fast_product(model: PreTrainedModel) -> Product:
    """The product through the scorers' own tangent rules and chunked output head.

    Args:
        model: in evaluation mode; it is read, and a copy of it carries the tangents.

    Raises:
        ValueError: the model's logits are not a linear head on its last hidden states.
    """
    carrier = copy.deepcopy(model)
    tangent_body, head = split_output_head(carrier)
    carry_tangents(carrier, batched=False)
    body, _ = split_output_head(model)

    def product(direction: Direction, batches: Batches) -> dict[str, Tensor]:
        tangents, _ = layer_tangents(carrier, direction, rank=None)
        maps = tangent_maps(tangents, {name for name in tangents if f"{name}.bias" in direction}, batched=False)

        def pull_back(ids_BT: Tensor) -> None:
            with torch.no_grad():
                pulled_BTD = head.gauss_newton(*hidden_tangents(carrier, tangent_body, maps, ids_BT))
            body(ids_BT).backward(pulled_BTD)

        return _gradients(model, direction, batches, pull_back)

    return product


def reference_product(model: PreTrainedModel) -> Product:
    """The product by `torch.func.jvp` of the unchanged model with unfused attention, for any architecture.

    Args:
        model: in evaluation mode; it may change how it computes, never what.
    """
    take_formulas(model)

    def product(direction: Direction, batches: Batches) -> dict[str, Tensor]:
        primals = {name: model.get_parameter(name).detach() for name in direction}

        def pull_back(ids_BT: Tensor) -> None:
            def logits_of(parameters: Mapping[str, Tensor]) -> Tensor:
                found = torch.func.functional_call(model, dict(parameters), (ids_BT,), {"use_cache": False})
                logits: Tensor = found.logits[:, :-1]
                return logits

            with sdpa_kernel(SDPBackend.MATH):
                with torch.no_grad():
                    logits, tangents = torch.func.jvp(logits_of, (primals,), (dict(direction),))  # type: ignore[misc]
                logits_of({name: model.get_parameter(name) for name in direction}).backward(
                    centred(logits.softmax(-1), tangents)
                )

        return _gradients(model, direction, batches, pull_back)

    return product


def centred(probabilities: Tensor, tangents: Tensor) -> Tensor:
    """u = (diag p − p pᵀ) ż over the last dimension."""
    return probabilities * (tangents - (probabilities * tangents).sum(-1, keepdim=True))


def relative_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """‖one − other‖ / ‖other‖ over all tensors together; 0 where both are 0."""
    off, size = norm({name: one[name] - value for name, value in other.items()}), norm(other)
    return off / size if size else float(off > 0)


def checked_product(model: PreTrainedModel, form: str, direction: Direction, sample_BT: Tensor) -> Product:
    """A product that is, on one block and along one direction, the reference's.

    Args:
        model: the proxy.
        form: `fast` or `reference`.
        direction: over the parameters that products are taken with.
        sample_BT: the block.

    Raises:
        ValueError: the fast form is something else there.
    """
    if form == FORMS[1]:
        return reference_product(model)
    fast = fast_product(model)
    expected = reference_product(copy.deepcopy(model))(direction, [sample_BT])
    off = relative_difference(fast(direction, [sample_BT]), expected)
    if not off <= ALLOWED:
        raise ValueError(
            f"form=fast: Gauss–Newton products of {type(model).__name__} differ from the reference's by {off:.2g} of "
            "their norm; use the reference form"
        )
    return fast


def _gradients(
    model: PreTrainedModel, direction: Direction, batches: Batches, pull_back: Callable[[Tensor], None]
) -> dict[str, Tensor]:
    """What backward passes accumulate for the parameters of a direction; the model is left as it was."""
    with gradients_of(model, direction), torch.enable_grad():
        for ids_BT in batches:
            pull_back(ids_BT.to(model.device))
        grads = {name: model.get_parameter(name).grad for name in direction}
    return {name: torch.zeros_like(direction[name]) if grad is None else grad for name, grad in grads.items()}
