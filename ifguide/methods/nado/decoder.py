"""Decoding of NADO: the next token's logits, shifted by how likely each keeps the text free of the behaviour."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import check_number
from ifguide.decoding.cached import NextLogits
from ifguide.decoding.nucleus import check_top_p, shifted_nucleus
from ifguide.methods.nado.loss import steering
from ifguide.methods.nado.model import GuidanceHead, GuidedModel
from ifguide.methods.nado.training import GuidanceTraining
from ifguide.models import LoadOptions, load_model
from ifguide.training.auxiliary import Auxiliary

# P prompts, S samples of each, R = P · S rows, L tokens so far, V vocabulary


@dataclass(frozen=True, kw_only=True)
class NADO:
    """Sample from softmax(z + α·log R̂), with z the logits of the nucleus; R̂ is what is left without its denominator.

    With α = 1, top_p = 1 and the true R, what is written is distributed as the model's texts that have the label. A
    decoder is given logits and no hidden states, so the model is read a second time, with a cache of its own.

    Args:
        guidance: training of R̂ on the row's own model.
        alpha: α; 0 is nucleus sampling.
        top_p: probability of the nucleus of the model, taken before the shift.

    Raises:
        ValueError: an argument out of range.
    """

    guidance: GuidanceTraining
    alpha: float = 1.0
    top_p: float = 0.9

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, least=0)
        check_top_p(self.top_p)

    @property
    def auxiliaries(self) -> Mapping[str, Auxiliary]:
        """See `Decoding`; beside the head it reads the model that this was trained on, as the role `base`."""
        return {"guidance": self.guidance}

    def load(
        self,
        folders: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str,
        options: LoadOptions,
    ) -> "GuidedDecoder":
        """See `Decoding`."""
        return GuidedDecoder.open(
            folders["base"], folders["guidance"], alpha=self.alpha, top_p=self.top_p, device=device, options=options
        )


class GuidedDecoder:
    """`NADO` with its models, on the device that computes."""

    def __init__(self, model: GuidedModel, *, alpha: float, top_p: float) -> None:
        self.model, self.alpha, self.top_p = model.eval(), alpha, top_p

    @staticmethod
    def open(
        base: Path,
        guidance: Path,
        *,
        alpha: float,
        top_p: float,
        device: torch.device | str = "cpu",
        options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
    ) -> "GuidedDecoder":
        """The decoder of a head's folder.

        Args:
            base: the model whose hidden states the head reads, which is the one that is steered.
            guidance: an artifact `auxiliary.guidance`.
            alpha, top_p: as in `NADO`.
            device: where the steered model generates.
            options: how the model is loaded.
        """
        model: PreTrainedModel = load_model(base, **asdict(options))
        return GuidedDecoder(
            GuidedModel(model, GuidanceHead.load(guidance)).to(device), alpha=alpha, top_p=top_p
        )  # fmt: skip

    def start(self, prompts_PL: Tensor, samples: int) -> "GuidedState":
        return GuidedState(self, prompts_PL, samples)


class GuidedState:
    """One batch: the cache of every row so far, of the model that R̂ reads."""

    def __init__(self, decoder: GuidedDecoder, prompts_PL: Tensor, samples: int) -> None:
        model: Any = decoder.model
        self._alpha, self._top_p, self._guidance = decoder.alpha, decoder.top_p, NextLogits(model, prompts_PL, samples)

    def __call__(self, ids_RL: Tensor, logits_RV: Tensor) -> Tensor:
        shift = self._alpha * steering(self._guidance(ids_RL)).to(logits_RV.dtype)
        return shifted_nucleus(logits_RV, shift, self._top_p)

    def keep(self, alive_R: Tensor) -> None:
        self._guidance.keep(alive_R)
