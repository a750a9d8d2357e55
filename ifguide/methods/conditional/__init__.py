"""Conditional training (Korbak et al., 2023): good and bad control tokens stand before segments of the training text
(`ifguide.corpus.control_tokens`); sampling begins with the good one."""

from ifguide.methods.conditional.decoder import Conditional, ConditionalDecoder
from ifguide.methods.conditional.vocabulary import add_control_tokens

__all__ = ["Conditional", "ConditionalDecoder", "add_control_tokens"]
