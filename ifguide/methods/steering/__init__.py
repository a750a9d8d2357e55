"""Activation steering by a difference of means: what toxic texts have more of is taken from the hidden states."""

from ifguide.methods.steering.decoder import Steering, SteeringDecoder, steer
from ifguide.methods.steering.vector import SteeringVector

__all__ = ["Steering", "SteeringDecoder", "SteeringVector", "steer"]
