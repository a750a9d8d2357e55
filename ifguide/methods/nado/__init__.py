"""NADO (Meng et al., 2022): a classifier's verdict on whole texts, decomposed into guidance of every next token."""

from ifguide.methods.nado.decoder import NADO, GuidedDecoder
from ifguide.methods.nado.model import GuidanceHead
from ifguide.methods.nado.samples import LabelledSamples
from ifguide.methods.nado.training import GuidanceTraining

__all__ = ["NADO", "GuidanceHead", "GuidanceTraining", "GuidedDecoder", "LabelledSamples"]
