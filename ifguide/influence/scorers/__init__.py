"""Scorers: (model, direction, blocks) → one score per token."""

from ifguide.influence.scorers.base import Scorer
from ifguide.influence.scorers.jvp import JVP

__all__ = ["JVP", "Scorer"]
