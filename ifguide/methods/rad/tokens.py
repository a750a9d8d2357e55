"""From the tokens of the generating model to those of a reward model with another tokenizer."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from ifguide.corpus.labelled import encode_texts
from ifguide.corpus.padding import pad
from ifguide.corpus.tokenizers import beginning_of_text, encode_within, token_texts, vocabulary_size

# P prompts, L tokens so far, V vocabulary, M tokens of the reward model


@dataclass(frozen=True)
class TokenTranslation:
    """How the reward model's tokenizer writes what the generating model's tokenizer writes.

    Attributes:
        ids_VM: its tokens of each token of ours, padded on the right.
        lengths_V: how many there are, at least one.
        unknown: our token for ids beyond the tokenizer's, which a model's padded vocabulary may have.
        first: what a text begins after for a reward model that has our tokenizer; None: what it does for our model.
        tokenizers: ours and the reward model's; None where they are the same.
        config: of the reward model, which says what a text begins after for it.
    """

    ids_VM: Tensor
    lengths_V: Tensor
    unknown: int
    first: int | None = None
    tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast] | None = None
    config: PreTrainedConfig | None = None

    @staticmethod
    def same(
        tokenizer: PreTrainedTokenizerFast, device: torch.device | str, config: PreTrainedConfig | None = None
    ) -> "TokenTranslation":
        ids = torch.arange(vocabulary_size(tokenizer), device=device)
        first = beginning_of_text(tokenizer, config)
        return TokenTranslation(ids[:, None], torch.ones_like(ids), tokenizer.eos_token_id, first)

    @staticmethod
    def between(
        ours: PreTrainedTokenizerFast,
        theirs: PreTrainedTokenizerFast,
        device: torch.device | str,
        config: PreTrainedConfig | None = None,
    ) -> "TokenTranslation":
        """Each token's text written anew, as within a text; special tokens, and those without text, are its end."""
        texts = token_texts(ours, skip_special_tokens=True)
        ids, valid = pad([np.array(ids or [theirs.eos_token_id]) for ids in encode_within(texts, theirs)])
        return TokenTranslation(
            ids.to(device), valid.sum(1).to(device), ours.eos_token_id, tokenizers=(ours, theirs), config=config
        )

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of any shape [...] → the reward model's, [..., M], and which of them are no padding."""
        tokens = tokens.where(tokens < len(self.lengths_V), self.unknown)
        lengths = self.lengths_V[tokens]
        longest = int(lengths.max()) if lengths.numel() else 1
        return self.ids_VM[tokens][..., :longest], torch.arange(longest, device=tokens.device) < lengths[..., None]

    def prompts(self, prompts_PL: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts as the reward model reads them: another tokenizer writes the whole text anew."""
        if self.tokenizers is None:
            ids, valid = (found.flatten(1) for found in self(prompts_PL))
            if self.first is not None:
                ids[:, 0] = self.first
            return ids, valid
        ours, theirs = self.tokenizers
        texts = ours.batch_decode(prompts_PL, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ids, valid = pad(
            [row[:-1] for row in encode_texts(texts, theirs, config=self.config)]
        )  # the text does not end here
        return ids.to(prompts_PL.device), valid.to(prompts_PL.device)
