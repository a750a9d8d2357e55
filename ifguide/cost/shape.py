"""The shape of a model: how many weights and how much arithmetic, without any weights."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ifguide.models import ModelSettings, decoder_blocks, tracked_layers
from ifguide.workspace import canonical_json, describe

FLOAT = 4  # bytes


@dataclass(frozen=True, eq=False)
class ModelShape:
    """What a model's configuration says of its size.

    Attributes:
        config: of transformers.
        attention: implementation.
        parameters: all weights.
        layers: decoder blocks.
        width: of the hidden states.
        heads: of queries.
        attended: heads times their size.
        block_weights: in the matrices of all decoder blocks, experts that a token does not reach included.
        vocabulary: rows of the output head.
        tracked: [outputs, inputs (+ 1 where there is a bias)] of each layer that influence tracks.
    """

    config: PreTrainedConfig
    attention: str
    parameters: int
    layers: int
    width: int
    heads: int
    attended: int
    block_weights: int
    vocabulary: int
    tracked: tuple[tuple[int, int], ...]

    def body(self, length: int, context: int | None = None) -> float:
        """FLOPs of the decoder blocks on a sequence: 2 for each weight and token; unfused attention, all of T × T.

        Args:
            length: tokens that are computed.
            context: tokens that each of them attends to; None: `length`.
        """
        seen = length if context is None else context
        return 2.0 * length * self.block_weights + 4.0 * self.layers * length * seen * self.attended

    def head(self, length: int) -> float:
        """FLOPs of the output head on a sequence."""
        return 2.0 * length * self.vocabulary * self.width

    def forward(self, length: int) -> float:
        return self.body(length) + self.head(length)

    @cached_property
    def tracked_parameters(self) -> int:
        return sum(outputs * inputs for outputs, inputs in self.tracked)

    def activations(self, length: int, *, recomputed: bool = False) -> float:
        """Bytes in float32 that training keeps of a sequence: of each decoder block 8 vectors as wide as hidden states
        and 2 as wide as what its matrices give beside attention (Korthikanti et al., 2022, section 4, without dropout,
        attention fused), and the logits with what the loss makes of them. Recomputed, what each block is given, and
        the whole of one.
        """
        block = 8 * self.width + 2 * self.inner
        blocks = self.layers * self.width + block if recomputed else self.layers * block
        return FLOAT * length * (blocks + 3 * self.vocabulary)

    @property
    def inner(self) -> float:
        """About how wide a decoder block is between its two layers beside attention."""
        return max(0.0, self.block_weights / self.layers / self.width - 4 * self.attended) / 2

    def logits(self, length: int) -> float:
        """Bytes in float32 of the logits of a sequence, with the copy that a loss makes."""
        return FLOAT * length * 2.0 * self.vocabulary

    def model(self, layers: int | None = None) -> PreTrainedModel:
        """A model of this shape with random weights, or of fewer decoder blocks."""
        config = copy.deepcopy(self.config)
        if layers is not None:
            with_fewer_layers(config, layers)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=self.attention
        )
        return model

    def smaller(self, layers: int) -> "ModelShape":
        """The shape with fewer decoder blocks."""
        with torch.device("meta"):
            return _measure(self.model(layers), self.attention)


def with_fewer_layers(config: Any, layers: int) -> None:
    """Set the number of decoder blocks, and shorten what a configuration says of each."""
    text = config.get_text_config()
    text.num_hidden_layers = layers
    for name, value in list(vars(text).items()):
        if name == "layer_types" and isinstance(value, list):
            setattr(text, name, value[:layers])


def shape_of(settings: ModelSettings, vocabulary: int) -> ModelShape:
    """The shape of the model that settings describe.

    Args:
        settings: of a model; of a pretrained one, its configuration alone is read.
        vocabulary: number of token ids.
    """
    key = canonical_json([describe(settings), settings.attention, vocabulary])
    if key not in _SHAPES:
        with torch.device("meta"):
            if settings.pretrained is None:
                model = settings.build(vocabulary, 0)
            else:
                model = AutoModelForCausalLM.from_config(
                    settings.config(vocabulary, 0), trust_remote_code=settings.trust_remote_code
                )
        _SHAPES[key] = _measure(model, settings.attention)
    return _SHAPES[key]


_SHAPES: dict[str, ModelShape] = {}


def _measure(model: PreTrainedModel, attention: str) -> ModelShape:
    text: Any = model.config.get_text_config()
    _, blocks = decoder_blocks(model)
    matrices = sum(p.numel() for p in blocks.parameters() if p.ndim >= 2)
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    embeddings: Any = model.get_input_embeddings()
    rows, width = embeddings.weight.shape
    return ModelShape(
        model.config,
        attention,
        sum(p.numel() for p in model.parameters()),
        len(blocks),
        int(width),
        int(heads),
        int(heads * size),
        matrices,
        int(rows),
        tuple(_size(layer) for layer in tracked_layers(model).values()),
    )


def _size(layer: nn.Module) -> tuple[int, int]:
    rows, columns = layer.get_parameter("weight").shape
    outputs, inputs = (rows, columns) if isinstance(layer, nn.Linear) else (columns, rows)
    return int(outputs), int(inputs) + (getattr(layer, "bias", None) is not None)
