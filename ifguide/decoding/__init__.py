"""How to generate: each decoder yields the logits processors that shape the next token's distribution."""

from ifguide.decoding.nucleus import nucleus

__all__ = ["nucleus"]
