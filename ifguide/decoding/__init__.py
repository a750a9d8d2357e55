"""How to generate: each decoder shapes the next token's distribution. Those that need models are in `methods`."""

from ifguide.decoding.base import Decoder, Decoding, DecodingState, ModelDecoder, ModelDecoding, Stateless
from ifguide.decoding.nucleus import Nucleus
from ifguide.decoding.processor import DecoderProcessor

__all__ = [
    "Decoder",
    "DecoderProcessor",
    "Decoding",
    "DecodingState",
    "ModelDecoder",
    "ModelDecoding",
    "Nucleus",
    "Stateless",
]
