"""The loss of attribute-controlled fine-tuning (Meng et al., 2024): towards the model's own harmless posterior.

The formula is a reconstruction from the abstract, the authors' code and NADO's posterior: q*(v) = p(v)·R̂(v) / Σ p·R̂ is
the closed form of the distribution nearest to p that meets the constraint, and KL(q* ‖ p_θ) draws p_θ towards it.
"""

from typing import Any

import torch
from torch import Tensor

from ifguide.methods.nado.loss import VALUES
from ifguide.objectives.linear_head import row_chunks

# M places, V vocabulary

LEAST = 80  # log-odds of R̂ are no further below 0: float32 holds what is as unlikely


def controlled_losses(
    logits_MV: Tensor, labels_M: Tensor, guidance_MV: Tensor, weights_M: Tensor, teacher_MV: Tensor | None = None
) -> Tensor:
    """−log p_θ(label) + λ·KL(q* ‖ p_θ) of each place, [M], in nats; no gradient flows through q*.

    Its gradient by the logits is known, p − [label] + λ·(p − q*), so it is made at once, some rows at a time, and kept
    in the place of all that automatic differentiation would keep.

    Args:
        logits_MV: of p_θ.
        labels_M: token ids.
        guidance_MV: log-odds of R̂ of every next token.
        weights_M: λ of each place.
        teacher_MV: logits of p in q*; None: p_θ itself.
    """
    losses: Tensor = _ControlledLosses.apply(logits_MV, labels_M, guidance_MV, weights_M, teacher_MV)
    return losses


class _ControlledLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, logits_MV: Tensor, labels_M: Tensor, guidance_MV: Tensor, weights_M: Tensor,
        teacher_MV: Tensor | None,
    ) -> Tensor:  # fmt: skip
        losses_M, slopes_MV = logits_MV.new_empty(len(logits_MV)), torch.empty_like(logits_MV)
        for rows in row_chunks(logits_MV, logits_MV.shape[1], logits=VALUES, least=1):
            labels, weights = labels_M[rows, None], weights_M[rows, None]
            z, r = logits_MV[rows], guidance_MV[rows].clamp(min=-LEAST).sigmoid_()
            top = z.amax(-1, keepdim=True)
            own, p, log_r = z.gather(-1, labels) - top, (z - top).exp_(), r.log()
            total = p.sum(-1, keepdim=True)
            if teacher_MV is None:
                q, gap = p * r, log_r  # gap: log q* − log p_θ, but for what is the same for all v
                mass = q.sum(-1, keepdim=True)
                constant = (total / mass).log_()
            else:
                t = teacher_MV[rows]
                t_top = t.amax(-1, keepdim=True)
                q, gap = (t - t_top).exp_().mul_(r), log_r.add_(t).sub_(z)
                mass = q.sum(-1, keepdim=True)
                constant = (total / mass).log_() + top - t_top
            q.div_(mass)
            slopes = torch.mul(p, (1 + weights) / total, out=slopes_MV[rows])
            slopes.addcmul_(q, weights, value=-1)
            slopes.scatter_add_(-1, labels, slopes.new_full((), -1.0).expand(labels.shape))
            divergence = q.mul_(gap).sum(-1, keepdim=True) + constant
            losses_M[rows] = (total.log() - own + weights * divergence).squeeze(-1)
        context.save_for_backward(slopes_MV)
        return losses_M

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradients_M,), (slopes_MV,) = gradients, context.saved_tensors
        return slopes_MV * gradients_M[:, None], None, None, None, None
