"""Exact token scores by forward-mode differentiation: one Jacobian-vector product scores every token of a batch."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

# B blocks, T tokens, V vocabulary


class JVP:
    """s[n,t] = ⟨v, ∇θ ℓ[n,t]⟩, the directional derivative of the token's own loss (IF-Guide, Eq. 8).

    Forward mode computes it for all tokens of all blocks at the cost of about two forward passes' arithmetic, without
    storing activations. Fused attention kernels have no forward-mode formula, so attention runs unfused.
    """

    def __call__(self, model: PreTrainedModel, direction: Mapping[str, Tensor], input_ids: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("forward-mode scores cannot be taken in torch.inference_mode; use torch.no_grad")
        assert not model.training, "scores are defined for the model in evaluation mode"
        primals = {name: model.get_parameter(name).detach() for name in direction}

        def logits_of(parameters: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(model, parameters, (input_ids,), {"use_cache": False}).logits

        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            logits_BTV, tangents_BTV = torch.func.jvp(logits_of, (primals,), (dict(direction),))  # type: ignore[misc]
            return loss_tangents(logits_BTV, tangents_BTV, input_ids)


def loss_tangents(logits_BTV: Tensor, tangents_BTV: Tensor, input_ids_BT: Tensor) -> Tensor:
    """Tangent of every token's loss from the logits and their tangents: Σ_v p(v) ż(v) − ż(x).

    Returns:
        [B, T] in float32 at least; column 0 is 0.
    """
    tangents = tangents_BTV[:, :-1]
    tangents = tangents if tangents.dtype == torch.float64 else tangents.float()
    probabilities = logits_BTV[:, :-1].to(tangents.dtype).softmax(-1)
    expected = (probabilities * tangents).sum(-1)
    own = tangents.gather(-1, input_ids_BT[:, 1:, None]).squeeze(-1)
    return F.pad(expected - own, (1, 0))
