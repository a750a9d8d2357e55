"""A model and the decoder that goes with it, loaded to be read."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ifguide.corpus.blocks import Corpus
from ifguide.decoding.base import Decoder, Decoding
from ifguide.inference import CHECK_BLOCKS, load_for_inference
from ifguide.models import ModelSettings


def load_with_decoder(
    settings: ModelSettings,
    folder: Path,
    decoding: Decoding,
    auxiliaries: Mapping[str, Path],
    auxiliary_settings: ModelSettings,
    *,
    corpus: Corpus,
    dtype: str,
    device: torch.device,
) -> tuple[PreTrainedModel, Decoder, Mapping[str, Any]]:
    """A model, its decoder, whose auxiliary models have the model's dtype, and facts for the manifest.

    Args:
        settings, folder: the model.
        decoding: the decoder's settings.
        auxiliaries, auxiliary_settings: role → folder of what the decoder reads, and how it is loaded.
        corpus: for the decoder's tokenizer; its first blocks are what dtypes are compared on.
        dtype: see `load_for_inference`.
        device: where all of them compute.
    """
    blocks = corpus.split("train").tokens(slice(CHECK_BLOCKS))
    model, facts = load_for_inference(settings, folder, device, dtype, blocks)
    options = replace(auxiliary_settings.load_options, dtype=facts["dtype"])
    return model, decoding.load(auxiliaries, corpus.tokenizer, device, options), facts
