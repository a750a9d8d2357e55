"""What a decoder is: it shapes the next token's distribution, and may keep a state of its own for every batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedTokenizerFast

from ifguide.training.auxiliary import Auxiliary

# P prompts, S samples of each, R = P · S rows (those of one prompt beside each other), L tokens so far, V vocabulary


class Steps(Protocol):
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

    def start(self, prompts_PL: Tensor, samples: int) -> Steps:
        """Begin a batch of prompts of equal length, each to be continued `samples` times."""
        ...


class Decoding(Protocol):
    """A decoder's settings: what the group `decoding` chooses.

    `auxiliaries` are the models that it reads beside the one that generates, by role; none are trained here.
    """

    auxiliaries: Mapping[str, Auxiliary]

    def load(
        self,
        folders: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str,
        *,
        attention: str = "sdpa",
        trust_remote_code: bool = False,
    ) -> Decoder:
        """The decoder, its auxiliary models read from the folder of each role.

        Args:
            folders: role → folder.
            tokenizer: of the generating model.
            device: where it generates.
            attention, trust_remote_code: of the auxiliary models, as in `ifguide.models.load_model`.
        """
        ...


class Stateless:
    """A decoder that is nothing but logits processors: its own settings, and the steps of every batch."""

    def __init__(self, processors: LogitsProcessorList) -> None:
        self.auxiliaries: Mapping[str, Auxiliary] = {}
        self._processors = processors

    def load(
        self,
        folders: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str,
        *,
        attention: str = "sdpa",
        trust_remote_code: bool = False,
    ) -> "Stateless":
        return self

    def start(self, prompts_PL: Tensor, samples: int) -> "Stateless":
        return self

    def __call__(self, ids_RL: Tensor, logits_RV: Tensor) -> Tensor:
        return self._processors(ids_RL, logits_RV)  # type: ignore[arg-type]

    def keep(self, alive_R: Tensor) -> None:
        pass
