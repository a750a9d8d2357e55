"""How to generate: each decoder shapes the next token's distribution. Those that need models are in `methods`."""

from ifguide.decoding.base import Decoder, Decoding, DecodingState, Stateless
from ifguide.decoding.nucleus import Nucleus

__all__ = ["Decoder", "Decoding", "DecodingState", "Nucleus", "Stateless"]
