"""Decoding of DExperts: the logits of the nucleus, shifted by what two experts differ in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import check_number
from ifguide.decoding.cached import NextLogits
from ifguide.decoding.nucleus import check_top_p, shifted_nucleus
from ifguide.methods.dexperts.training import ExpertTraining
from ifguide.models import LoadOptions, load_model
from ifguide.training.auxiliary import Auxiliary

# P prompts, S samples of each, R = P · S rows, L tokens so far, V vocabulary


@dataclass(frozen=True, kw_only=True)
class DExperts:
    """Sample from softmax(z + α(z⁺ − z⁻)), with z the logits of the nucleus, z⁺ the expert's, z⁻ the anti-expert's.

    Args:
        experts: training of both, of the expert on the labelled texts that are not toxic, of the other on those
            that are.
        alpha: α; 0 is nucleus sampling.
        top_p: probability of the nucleus, taken before the shift.

    Raises:
        ValueError: an argument out of range.
    """

    experts: ExpertTraining
    alpha: float = 2.0
    top_p: float = 0.9

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, least=0)
        check_top_p(self.top_p)
        if self.experts.optim.epochs == 0:
            raise ValueError(
                f"experts.optim.epochs=0 keeps experts.pretrained={self.experts.pretrained} as it is for both experts, "
                "whose difference is then nothing; train them"
            )

    @property
    def auxiliaries(self) -> Mapping[str, Auxiliary]:
        """See `Decoding`."""
        return {"expert": replace(self.experts, toxic=False), "anti-expert": replace(self.experts, toxic=True)}

    def load(
        self,
        folders: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str,
        options: LoadOptions,
    ) -> "ExpertDecoder":
        """See `Decoding`."""
        expert, anti_expert = (folders[role] for role in self.auxiliaries)
        return ExpertDecoder.open(
            expert, anti_expert, alpha=self.alpha, top_p=self.top_p, device=device, options=options
        )  # fmt: skip


class ExpertDecoder:
    """`DExperts` with its models, on the device that computes."""

    def __init__(self, expert: PreTrainedModel, anti_expert: PreTrainedModel, *, alpha: float, top_p: float) -> None:
        self.expert, self.anti_expert, self.alpha, self.top_p = expert, anti_expert, alpha, top_p

    @staticmethod
    def open(
        expert: Path,
        anti_expert: Path,
        *,
        alpha: float,
        top_p: float,
        device: torch.device | str = "cpu",
        options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
    ) -> "ExpertDecoder":
        """The decoder of two experts' folders.

        Args:
            expert, anti_expert: artifacts `auxiliary.expert` and `auxiliary.anti-expert`.
            alpha, top_p: as in `DExperts`.
            device: where the steered model generates.
            options: how the experts are loaded.
        """
        models: list[Any] = [load_model(folder, **asdict(options)).to(device) for folder in (expert, anti_expert)]  # type: ignore[arg-type]
        return ExpertDecoder(*(model.eval() for model in models), alpha=alpha, top_p=top_p)

    def start(self, prompts_PL: Tensor, samples: int) -> "ExpertState":
        return ExpertState(self, prompts_PL, samples)


class ExpertState:
    """One batch: the cache of every row so far, of both experts."""

    def __init__(self, decoder: ExpertDecoder, prompts_PL: Tensor, samples: int) -> None:
        self._top_p, self._alpha = decoder.top_p, decoder.alpha
        self._experts = [NextLogits(m, prompts_PL, samples) for m in (decoder.expert, decoder.anti_expert)]

    def __call__(self, ids_RL: Tensor, logits_RV: Tensor) -> Tensor:
        expert, anti_expert = (cached(ids_RL).to(logits_RV.dtype) for cached in self._experts)
        width = min(expert.shape[1], anti_expert.shape[1])
        shift = self._alpha * (expert[:, :width] - anti_expert[:, :width])
        return shifted_nucleus(logits_RV, shift, self._top_p)

    def keep(self, alive_R: Tensor) -> None:
        for cached in self._experts:
            cached.keep(alive_R)
