"""The loss of a unidirectional reward model, which scores every beginning of a text (RAD; Deng and Raffel, 2023)."""

from torch import Tensor

# B texts, T tokens


def cumulative_squared_error(rewards_BT: Tensor, targets_B: Tensor, valid_BT: Tensor) -> Tensor:
    """Σ_t t·(r_t − y)² / (n(n+1)/2) over the n scored tokens of each text, the mean over texts (RAD's loss).

    The later a beginning ends, the more its score weighs.

    Args:
        rewards_BT: r, the score of the text up to and with each token.
        targets_B: y, the label of the whole text.
        valid_BT: True at tokens that are scored; padding and a first end-of-text token are not.

    Returns:
        A scalar.
    """
    valid = valid_BT.to(rewards_BT.dtype)
    weight = valid.cumsum(1) * valid  # t = 1 … n
    errors = (weight * (rewards_BT - targets_B[:, None]) ** 2).sum(1) / weight.sum(1).clamp(min=1)
    return errors.mean()
