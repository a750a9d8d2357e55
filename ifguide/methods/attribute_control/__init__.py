"""Attribute-controlled fine-tuning (Meng et al., 2024): the corpus is learned, what R̂ speaks against is not said."""

from ifguide.methods.attribute_control.training import TIMED, AttributeControl

__all__ = ["TIMED", "AttributeControl"]
