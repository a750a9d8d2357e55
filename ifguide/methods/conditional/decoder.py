"""Decoding of conditional training: a control token stands before what is written, and none is ever written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.control_tokens import GOOD, KINDS, control_ids
from ifguide.decoding import Nucleus
from ifguide.decoding.base import Memoryless
from ifguide.decoding.nucleus import OverNucleus
from ifguide.models import LoadOptions
from ifguide.training.auxiliary import Auxiliary

PLACES = ("continuation", "prompt")

# R rows, L tokens so far, V vocabulary


@dataclass(frozen=True, kw_only=True)
class Conditional(OverNucleus):
    """Nucleus sampling behind a control token; the logits of both control tokens are −∞.

    Args:
        kind: of the token: `good`, or `bad` to see what the good one holds back.
        place: where it stands: before the `continuation`, behind the prompt, or before the `prompt`, as in the paper.
            A small model follows a prompt that insults more than a token before it.
        top_p, temperature: as in `Nucleus`.

    Raises:
        ValueError: an argument out of range; when loaded, a tokenizer without control tokens.
    """

    kind: str = GOOD
    place: str = PLACES[0]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.place not in PLACES:
            raise ValueError(f"place={self.place}: known: {', '.join(PLACES)}")
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind}: known: {', '.join(KINDS)}")

    @property
    def auxiliaries(self) -> Mapping[str, Auxiliary]:
        """See `Decoding`."""
        return {}

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerFast) -> list[int]:
        """Ids of the tokenizer's control tokens.

        Raises:
            ValueError: it has none.
        """
        ids = control_ids(tokenizer)
        if ids is None:
            raise ValueError(
                f"kind={self.kind}: the tokenizer has no control tokens; filter=control_tokens trains with them, and "
                "data.tokenizer.path names the folder of a model that was trained so"
            )
        return ids

    def load(
        self,
        folders: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str,
        options: LoadOptions,
    ) -> "ConditionalDecoder":
        """See `Decoding`."""
        ids = self.check_tokenizer(tokenizer)
        token = [ids[KINDS.index(self.kind)]]
        prefix, suffix = (token, []) if self.place == "prompt" else ([], token)
        return ConditionalDecoder(ids, prefix=prefix, suffix=suffix, nucleus=self.nucleus)


class ConditionalDecoder(Memoryless):
    """`Conditional` with the ids of its tokens.

    Args:
        control_tokens: ids that are never written.
        prefix, suffix: what prompts begin and end with.
        nucleus: what is sampled from, of all other tokens.
    """

    def __init__(
        self, control_tokens: Sequence[int], *, prefix: Sequence[int], suffix: Sequence[int] = (), nucleus: Nucleus
    ) -> None:
        self.control_tokens, self.nucleus = list(control_tokens), nucleus
        self.prefix, self.suffix = list(prefix), list(suffix)

    def __call__(self, ids_RL: Tensor, logits_RV: Tensor) -> Tensor:
        """See `DecodingState`."""
        banned = logits_RV.clone()
        banned[:, self.control_tokens] = -torch.inf
        return self.nucleus(ids_RL, banned)
