"""Reward-augmented decoding (RAD; Deng and Raffel, 2023): a reward model steers among the likeliest next tokens."""

from ifguide.methods.rad.decoder import RAD, RewardAugmentedDecoder
from ifguide.methods.rad.training import RewardTraining

__all__ = ["RAD", "RewardAugmentedDecoder", "RewardTraining"]
