"""Post-training by policy gradients on a model's own continuations: leave-one-out (RLOO; Ahmadian et al., 2024) and
group-relative (GRPO; Shao et al., 2024)."""

from ifguide.methods.rl.estimators import Estimator, GroupRelative, LeaveOneOut
from ifguide.methods.rl.training import PolicyGradient

__all__ = ["Estimator", "GroupRelative", "LeaveOneOut", "PolicyGradient"]
