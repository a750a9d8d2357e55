"""How to generate: each decoder shapes the next token's distribution."""

from ifguide.decoding.base import Decoder, Decoding, Steps
from ifguide.decoding.dexperts import DExperts
from ifguide.decoding.nucleus import nucleus
from ifguide.decoding.rad import RAD

__all__ = ["RAD", "DExperts", "Decoder", "Decoding", "Steps", "nucleus"]
