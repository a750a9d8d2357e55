"""The regulariser of attribute-controlled fine-tuning (Meng et al., 2024): towards the model's own harmless posterior.

The formula is a reconstruction from the abstract, the authors' code and NADO's posterior: q*(v) = p(v)·R̂(v) / Σ p·R̂ is
the closed form of the distribution nearest to p that meets the constraint, and KL(q* ‖ p_θ) draws p_θ towards it.
"""

import torch
from torch import Tensor

# M places, V vocabulary


def log_posterior(log_p_MV: Tensor, log_r_MV: Tensor) -> Tensor:
    """log q*(v), q* ∝ p(v)·R̂(v) over the whole vocabulary; R̂ need be known up to a factor only."""
    return (log_p_MV + log_r_MV).log_softmax(-1)


def posterior_divergence(log_p_MV: Tensor, log_r_MV: Tensor, teacher_MV: Tensor | None = None) -> Tensor:
    """KL(q* ‖ p_θ) of each place, [M], in nats; no gradient flows through q*.

    Args:
        log_p_MV: log p_θ.
        log_r_MV: log R̂ of every next token.
        teacher_MV: log p in q*; None: p_θ itself.
    """
    with torch.no_grad():
        log_q_MV = log_posterior(log_p_MV if teacher_MV is None else teacher_MV, log_r_MV)
        q_MV = log_q_MV.exp()
    return (q_MV * (log_q_MV - log_p_MV)).sum(-1)
