"""What a decoder is: it shapes the next token's distribution, and may keep a state of its own for every batch."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from ifguide.models import LoadOptions
from ifguide.training.auxiliary import Auxiliary

# P prompts, S samples of each, R = P · S rows (those of one prompt beside each other), L tokens so far, V vocabulary


class DecodingState(Protocol):
    """One batch on its way."""

    def __call__(self, ids_RL: Tensor, logits_RV: Tensor) -> Tensor:
        """The logits to sample the next token from, called once a step.

        Args:
            ids_RL: all tokens so far, prompts included, of the rows that have not ended.
            logits_RV: the generating model's, for the next token.
        """
        ...

    def keep(self, alive_R: Tensor) -> None:
        """Forget the rows that are not True: they have ended, and are in no later call."""
        ...


class Decoder(Protocol):
    """How to generate, with everything it needs."""

    def start(self, prompts_PL: Tensor, samples: int) -> DecodingState:
        """Begin a batch of prompts of equal length, each to be continued `samples` times."""
        ...


class Decoding(Protocol):
    """A decoder's settings: what the group `decoding` chooses."""

    @property
    def auxiliaries(self) -> Mapping[str, Auxiliary]:
        """What it reads beside the model that generates, by role; nothing is trained here."""
        ...

    def load(
        self,
        folders: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str,
        options: LoadOptions,
    ) -> Decoder:
        """The decoder, its auxiliary models read from the folder of each role.

        Args:
            folders: role → folder.
            tokenizer: of the generating model.
            device: where it generates.
            options: how the auxiliary models are loaded.
        """
        ...


@runtime_checkable
class FramingDecoder(Decoder, Protocol):
    """A decoder whose prompts stand between tokens of its own, behind what every text begins after."""

    @property
    def prefix(self) -> Sequence[int]: ...

    @property
    def suffix(self) -> Sequence[int]: ...


@runtime_checkable
class ModelDecoder(Decoder, Protocol):
    """A decoder that also changes what the model computes: with it, the model is another one."""

    def attach(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Change the model within this context."""
        ...


@runtime_checkable
class ModelDecoding(Decoding, Protocol):
    """The settings of a `ModelDecoder`; the model that it makes has a perplexity of its own."""

    def check_model(self, config: PreTrainedConfig) -> None:
        """Raise ValueError where it cannot change a model of this configuration."""
        ...


def frame_of(decoder: Decoder) -> tuple[Sequence[int], Sequence[int]]:
    """What a decoder puts before and behind prompts."""
    return (decoder.prefix, decoder.suffix) if isinstance(decoder, FramingDecoder) else ((), ())


def attached(decoder: Decoder | None, model: PreTrainedModel) -> AbstractContextManager[None]:
    """The model as a decoder has it: unchanged, but for a `ModelDecoder`."""
    return decoder.attach(model) if isinstance(decoder, ModelDecoder) else nullcontext()


class Memoryless:
    """A decoder that is itself the state of every batch."""

    def start(self, prompts_PL: Tensor, samples: int) -> "Memoryless":
        return self

    def __call__(self, ids_RL: Tensor, logits_RV: Tensor) -> Tensor:
        """See `DecodingState`."""
        raise NotImplementedError

    def keep(self, alive_R: Tensor) -> None:
        pass


class Stateless(Memoryless):
    """A decoding without models and without a memory: its own settings, decoder, and state of every batch."""

    @property
    def auxiliaries(self) -> Mapping[str, Auxiliary]:
        return {}

    def load(
        self,
        folders: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str,
        options: LoadOptions,
    ) -> "Stateless":
        return self
