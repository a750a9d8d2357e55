"""The loss of attribute-controlled fine-tuning (Meng et al., 2024): towards the model's own harmless posterior.

The formula is a reconstruction from the abstract, the authors' code and NADO's posterior: q*(v) = p(v)·R̂(v) / Σ p·R̂ is
the closed form of the distribution nearest to p that meets the constraint, and KL(q* ‖ p_θ) draws p_θ towards it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ifguide.objectives.linear_head import CACHED_LOGITS, largest_exponent, row_chunks

# M places, V vocabulary


def controlled_losses(
    logits_MV: Tensor, labels_M: Tensor, guidance_MV: Tensor, weights_M: Tensor, teacher_MV: Tensor | None = None
) -> Tensor:
    """−log p_θ(label) + λ·KL(q* ‖ p_θ) of each place, [M], in nats; no gradient flows through q*.

    Its gradient by the logits is known, p − [label] + λ·(p − q*), so it is made at once, some rows at a time, and kept
    in the place of all that automatic differentiation would keep.

    Args:
        logits_MV: of p_θ.
        labels_M: token ids.
        guidance_MV: log-odds of R̂ of every next token, none below −`largest_exponent`.
        weights_M: λ of each place.
        teacher_MV: logits of p in q*; None: p_θ itself.
    """
    losses: Tensor = _ControlledLosses.apply(logits_MV, labels_M, guidance_MV, weights_M, teacher_MV)
    return losses


def _posterior(p_MV: Tensor, guidance_MV: Tensor, log_ratio_MV: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """q* ∝ p·R̂ and KL(q* ‖ p_θ), [M, V] and [M, 1]; `log_ratio_MV` is log p − log p_θ, where p is another one."""
    r = guidance_MV.clamp(min=-largest_exponent(guidance_MV.dtype)).sigmoid_()
    q, gap = r * p_MV, r.log_()
    mass = q.sum(-1, keepdim=True)
    q /= mass
    if log_ratio_MV is not None:
        gap += log_ratio_MV
    return q, (q * gap).sum(-1, keepdim=True) - mass.log_()


class _ControlledLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, logits_MV: Tensor, labels_M: Tensor, guidance_MV: Tensor, weights_M: Tensor,
        teacher_MV: Tensor | None,
    ) -> Tensor:  # fmt: skip
        losses_M, slopes_MV = logits_MV.new_empty(len(logits_MV)), torch.empty_like(logits_MV)
        for rows in row_chunks(logits_MV, logits_MV.shape[1], logits=CACHED_LOGITS, least=1):
            z, labels, weights = logits_MV[rows], labels_M[rows, None], weights_M[rows, None]
            top = z.amax(-1, keepdim=True)
            losses, slopes = top - z.gather(-1, labels), torch.sub(z, top, out=slopes_MV[rows]).exp_()
            total = slopes.sum(-1, keepdim=True)
            log_total = total.log()
            losses += log_total
            slopes /= total
            if weights.any():
                if teacher_MV is None:
                    q, divergence = _posterior(slopes, guidance_MV[rows])
                else:
                    log_t = teacher_MV[rows].log_softmax(-1)
                    q, divergence = _posterior(log_t.exp(), guidance_MV[rows], log_t - (z - top - log_total))
                losses += weights * divergence
                slopes *= 1 + weights
                slopes.addcmul_(q, weights, value=-1)
            slopes.scatter_add_(-1, labels, slopes.new_full((), -1.0).expand(labels.shape))
            losses_M[rows] = losses.squeeze(-1)
        context.save_for_backward(slopes_MV)
        return losses_M

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradients_M,), (slopes_MV,) = gradients, context.saved_tensors
        return slopes_MV * gradients_M[:, None], None, None, None, None
