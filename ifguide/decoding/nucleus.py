"""Nucleus sampling (Holtzman et al., 2020), the decoder of the paper's evaluation."""

from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from ifguide.decoding.base import Stateless


def nucleus(*, top_p: float = 0.9, temperature: float = 1.0) -> Stateless:
    """Sample from the smallest set of tokens whose probability reaches `top_p`.

    Raises:
        ValueError: an argument out of range.
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"decoding.top_p={top_p}: a probability in (0, 1]")
    if temperature <= 0:
        raise ValueError(f"decoding.temperature={temperature}: must be above 0")
    processors = LogitsProcessorList()
    if temperature != 1.0:
        processors.append(TemperatureLogitsWarper(temperature))
    if top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p))
    return Stateless(processors)
