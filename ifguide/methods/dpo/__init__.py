"""Post-training by direct preference optimisation (DPO; Rafailov et al., 2023; against toxicity: Lee et al., 2024)."""

from ifguide.methods.dpo.pairs import reference_log_probabilities
from ifguide.methods.dpo.training import DPO

__all__ = ["DPO", "reference_log_probabilities"]
