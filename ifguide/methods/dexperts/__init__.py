"""DExperts (Liu et al., 2021): an expert and an anti-expert shift the next token's logits."""

from ifguide.methods.dexperts.decoder import DExperts, ExpertDecoder
from ifguide.methods.dexperts.training import ExpertTraining

__all__ = ["DExperts", "ExpertDecoder", "ExpertTraining"]
