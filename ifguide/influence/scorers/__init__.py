"""Scorers: (model, directions, blocks) → one score per token and direction."""

from ifguide.influence.scorers.base import Direction, Scorer, TokenScorer
from ifguide.influence.scorers.finite_difference import FiniteDifference
from ifguide.influence.scorers.jvp import JVP
from ifguide.influence.scorers.positional import Positional

__all__ = ["JVP", "Direction", "FiniteDifference", "Positional", "Scorer", "TokenScorer"]
