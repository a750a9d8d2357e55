"""Decoding with activation steering: nucleus sampling from a model whose hidden states are moved."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import check_number, check_whole_number
from ifguide.decoding import Nucleus
from ifguide.decoding.nucleus import OverNucleus
from ifguide.methods.steering.vector import SteeringVector, hidden_state, load_vectors
from ifguide.models import LoadOptions, decoder_blocks

# N decoder blocks, H hidden size, P prompts


@dataclass(frozen=True, kw_only=True)
class Steering(OverNucleus):
    """Sample from the model with h ← h − α·u after one decoder block, at every position.

    Args:
        vector: how u is found.
        block: the decoder block, from 0; None: the middle one, ⌊N/2⌋.
        alpha: α; 0 is nucleus sampling from the model as it is, below 0 steers towards what it steers away from.
        top_p, temperature: as in `Nucleus`.

    Raises:
        ValueError: an argument out of range.
    """

    vector: SteeringVector
    block: int | None = None
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block is not None:
            check_whole_number("block", self.block, least=0)
        check_number("alpha", self.alpha)

    @property
    def auxiliaries(self) -> Mapping[str, SteeringVector]:
        """See `Decoding`."""
        return {"vector": self.vector}

    def check_model(self, config: PreTrainedConfig) -> None:
        """See `ModelDecoding`."""
        blocks = config.get_text_config().num_hidden_layers
        if self.block is not None and self.block >= blocks:
            raise ValueError(f"block={self.block}: the model has {blocks} decoder blocks, from 0 to {blocks - 1}")

    def load(
        self,
        folders: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str,
        options: LoadOptions,
    ) -> "SteeringDecoder":
        """See `Decoding`."""
        return SteeringDecoder(
            load_vectors(folders["vector"]), block=self.block, alpha=self.alpha, nucleus=self.nucleus
        )


class SteeringDecoder:
    """`Steering` with its vectors.

    Args:
        vectors_NH: u after each decoder block.
        block, alpha: as in `Steering`.
        nucleus: what is sampled from.
    """

    def __init__(self, vectors_NH: Tensor, *, block: int | None, alpha: float, nucleus: Nucleus) -> None:
        self.vectors, self.alpha, self.nucleus = vectors_NH, alpha, nucleus
        self.block = len(vectors_NH) // 2 if block is None else block

    @staticmethod
    def open(
        folder: str | Path, *, block: int | None = None, alpha: float = 1.0, top_p: float = 0.9
    ) -> "SteeringDecoder":
        """The decoder of a folder, the artifact `auxiliary.vector`; the others as in `Steering`."""
        return SteeringDecoder(load_vectors(Path(folder)), block=block, alpha=alpha, nucleus=Nucleus(top_p=top_p))

    def attach(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """See `ModelDecoder`; `generate` of transformers is steered within this context."""
        return steer(model, self.alpha * self.vectors[self.block], block=self.block)

    def start(self, prompts_PL: Tensor, samples: int) -> Nucleus:
        return self.nucleus


@contextmanager
def steer(model: PreTrainedModel, shift_H: Tensor, *, block: int) -> Iterator[None]:
    """Take a vector from a model's hidden states after a decoder block, at every position, within this context.

    Each position is moved alike, whatever else is read with it, so a cache holds what the whole text would give.

    Args:
        model: of transformers.
        shift_H: α·u.
        block: the decoder block, from 0.
    """

    def move(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = hidden_state(output)
        moved = hidden - shift_H.to(hidden)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handle = decoder_blocks(model)[1][block].register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()
