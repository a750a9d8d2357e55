"""The losses of NADO (Meng et al., 2022), the log-odds of R̂ for rare labels, and decoding with R̂.

R(x, y<i, v) is the probability that a text which the model continues from there has the label C. It is predicted for
every possible next token v at once, as log-odds: R̂(x, y<i, v) = σ(guidance[b, i, v]), where i is the token that comes
next. So R̂ of a text that ends in y_i is `guidance[b, i, y_i]`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ifguide.objectives.linear_head import CACHED_LOGITS, largest_exponent, row_chunks

# B texts, N tokens of their continuations, V vocabulary, X any shape, M places


def of_tokens(values_BNV: Tensor, tokens_BN: Tensor) -> Tensor:
    """The values of the tokens that are there, [B, N]."""
    return values_BNV.gather(-1, tokens_BN[..., None])[..., 0]


def prefix_loss(guidance_BNV: Tensor, tokens_BN: Tensor, labels_B: Tensor, counted_BN: Tensor) -> Tensor:
    """−Σ_i C·log R̂(x, y≤i) + (1 − C)·log(1 − R̂(x, y≤i)): R̂'s cross-entropy on every prefix, over B·N.

    Were it the mean over tokens of each text, short texts would weigh more, and R̂ would be theirs.

    Args:
        guidance_BNV: log-odds of R̂, before each token.
        tokens_BN: the continuations.
        labels_B: C of each text, in [0, 1].
        counted_BN: True at tokens of the text; what comes after its end does not count.

    Returns:
        A scalar, in nats.
    """
    chosen_BN = of_tokens(guidance_BNV, tokens_BN)
    labels_BN = labels_B[:, None].expand_as(chosen_BN).to(chosen_BN.dtype)
    losses_BN = F.binary_cross_entropy_with_logits(chosen_BN, labels_BN, reduction="none")
    return (losses_BN * counted_BN).sum() / counted_BN.numel()


def inconsistency(guidance_BNV: Tensor, logits_BNV: Tensor, tokens_BN: Tensor, counted_BN: Tensor) -> Tensor:
    """Σ_i KL(Bern(e_i) ‖ Bern(a_i)), over B·N: how far R̂ is from its own expectation one step later.

    a_i = R̂(x, y≤i), and e_i = Σ_v p(v | x, y≤i)·R̂(x, y≤i, v). Gradients flow through both. It is 0 for the true R. A
    token after which the text does not go on has no e.

    Args:
        guidance_BNV, tokens_BN, counted_BN: as in `prefix_loss`.
        logits_BNV: of the model that wrote the texts, before each token; no gradient flows through them.

    Returns:
        A scalar, in nats.
    """
    chosen_BN = of_tokens(guidance_BNV, tokens_BN)[:, :-1]
    log_a, log_not_a = F.logsigmoid(chosen_BN), F.logsigmoid(-chosen_BN)
    log_e, log_not_e = (one[:, 1:] for one in log_expectation(guidance_BNV, logits_BNV))
    divergence_BN = log_e.exp() * (log_e - log_a) + log_not_e.exp() * (log_not_e - log_not_a)
    return (divergence_BN * counted_BN[:, 1:]).sum() / counted_BN.numel()


def log_expectation(guidance_XV: Tensor, logits_XV: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ_v p(v)·R̂(v) and log Σ_v p(v)·(1 − R̂(v)) of each place, [X] each; no gradient flows through p.

    The second one is summed by itself, since 1 − e would cancel where e is near 1.

    Args:
        guidance_XV: log-odds of R̂, clamped to what `largest_exponent` says.
        logits_XV: of p.
    """
    log_e_M, log_not_e_M = _LogExpectation.apply(guidance_XV.flatten(0, -2), logits_XV.flatten(0, -2))
    return log_e_M.view(guidance_XV.shape[:-1]), log_not_e_M.view(guidance_XV.shape[:-1])


class _LogExpectation(torch.autograd.Function):
    """Some rows at a time; of what is as large as the logits, it keeps p·R̂·(1 − R̂)."""

    @staticmethod
    def forward(context: Any, guidance_MV: Tensor, logits_MV: Tensor) -> tuple[Tensor, Tensor]:
        slopes_MV, most = torch.empty_like(guidance_MV), largest_exponent(guidance_MV.dtype)
        e_M, not_e_M = (guidance_MV.new_empty(len(guidance_MV)) for _ in range(2))
        for rows in row_chunks(guidance_MV, guidance_MV.shape[1], logits=CACHED_LOGITS, least=1):
            p = logits_MV[rows].softmax(-1)
            x = guidance_MV[rows].clamp(-most, most).neg_().exp_()
            r = (x + 1).reciprocal_()
            not_r = x.mul_(r)
            of_r = torch.mul(p, r, out=slopes_MV[rows])
            e_M[rows] = of_r.sum(-1)
            not_e_M[rows] = p.mul_(not_r).sum(-1)
            of_r.mul_(not_r)
        context.save_for_backward(slopes_MV, e_M, not_e_M)
        return e_M.log(), not_e_M.log()

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (of_e_M, of_not_e_M), (slopes_MV, e_M, not_e_M) = gradients, context.saved_tensors
        return slopes_MV * (of_e_M / e_M - of_not_e_M / not_e_M)[:, None], None


def relative_log_odds(scores_V: Tensor, best_1: Tensor) -> Tensor:
    """Log-odds of R̂ where log R̂(v) = (log r_v − max_v log r_v) + log β (DiNADO; Lu et al., 2024), for rare labels.

    Args:
        scores_V: [..., V], log r up to a constant, which cancels.
        best_1: [..., 1], log-odds of β: that of the best next token.
    """
    log_r = scores_V - scores_V.amax(-1, keepdim=True) + F.logsigmoid(best_1)
    log_r = log_r.clamp(max=-torch.finfo(log_r.dtype).eps)  # R̂ = 1 has no finite log-odds
    return log_r - torch.log(-torch.expm1(log_r))


def steering(guidance_V: Tensor) -> Tensor:
    """log R̂(v) − max_v log R̂(v), [..., V]: what is added to log p. What is the same for all v adds nothing at all."""
    log_r = F.logsigmoid(guidance_V)
    return log_r - log_r.amax(-1, keepdim=True)
