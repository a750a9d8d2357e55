"""Which policy gradient: settings of the losses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ifguide.checks import check_number
from ifguide.methods.rl.loss import group_relative_loss, leave_one_out_loss


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """A loss of samples with rewards, whose gradient is a policy gradient.

    Args:
        beta: β, weight of the divergence from the model before post-training; 0: none.
        epsilon: ε, how far a ratio of probabilities may move between sampling and learning.

    Raises:
        ValueError: an argument out of range.
    """

    formula: ClassVar[Callable[..., Tensor]]

    beta: float = 0.05
    epsilon: float = 0.2

    def __post_init__(self) -> None:
        check_number("beta", self.beta, least=0)
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon={self.epsilon}: above 0, below 1")

    def loss(
        self, policy_BT: Tensor, old_BT: Tensor, reference_BT: Tensor, response_BT: Tensor, rewards_PS: Tensor
    ) -> Tensor:
        """The arguments are those of `leave_one_out_loss`."""
        return type(self).formula(
            policy_BT, old_BT, reference_BT, response_BT, rewards_PS, beta=self.beta, epsilon=self.epsilon
        )


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(Estimator):
    """`leave_one_out_loss` (RLOO): one ratio for each continuation, the divergence in the reward."""

    formula = staticmethod(leave_one_out_loss)


@dataclass(frozen=True, kw_only=True)
class GroupRelative(Estimator):
    """`group_relative_loss` (GRPO): a ratio for each token, the divergence in the loss."""

    formula = staticmethod(group_relative_loss)
