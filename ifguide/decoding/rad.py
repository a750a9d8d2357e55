"""Reward-augmented decoding (RAD; Deng and Raffel, 2023): a reward model steers among the likeliest next tokens."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerFast

from ifguide.corpus.labelled import encode_texts
from ifguide.corpus.tokenizers import encode_within, token_texts, vocabulary_size
from ifguide.training.auxiliary import Auxiliary, tokenizer_of
from ifguide.training.data import pad
from ifguide.training.reward import RewardModel, RewardTraining, load_reward_model

# P prompts, S samples of each, R = P · S rows, L tokens so far, V vocabulary, K candidates a row
# of the reward model: C cached tokens, N new tokens, M tokens a candidate


class RAD:
    """Sample from softmax(z + β·(1 − toxicity)) over the `top_k` likeliest tokens.

    Args:
        reward: training of the reward model, whose clamped output is the toxicity.
        top_k: candidates at each step.
        beta: β; 0 is sampling from the `top_k` likeliest.
        batch_size: candidates that the reward model reads at a time, at least those of one prompt's samples.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, *, reward: RewardTraining, top_k: int = 20, beta: float = 50.0, batch_size: int = 8192) -> None:
        if top_k < 1 or batch_size < 1:
            raise ValueError(f"decoding.top_k={top_k}, decoding.batch_size={batch_size}: 1 or more")
        if beta < 0:
            raise ValueError(f"decoding.beta={beta}: 0 or more")
        self.auxiliaries: Mapping[str, Auxiliary] = {"reward": reward}
        self.top_k, self.beta, self.batch_size = top_k, beta, batch_size

    def load(
        self,
        folders: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str,
        *,
        attention: str = "sdpa",
        trust_remote_code: bool = False,
    ) -> "RewardAugmentedDecoder":
        attention = attention if attention == "eager" else "sdpa"  # no other takes the mask of `CachedRewards`
        model = load_reward_model(folders["reward"], attention=attention, trust_remote_code=trust_remote_code)
        model.to(device).eval()
        theirs = tokenizer_of(folders["reward"], tokenizer)
        spelling = Spelling.same(tokenizer, device)
        if theirs.get_vocab() != tokenizer.get_vocab():
            spelling = Spelling.between(tokenizer, theirs, device)
        return RewardAugmentedDecoder(model, spelling, top_k=self.top_k, beta=self.beta, batch_size=self.batch_size)


@dataclass(frozen=True)
class Spelling:
    """How the reward model's tokenizer writes what the generating model's tokenizer writes.

    Attributes:
        ids_VM: its tokens of each token of ours, padded on the right.
        lengths_V: how many there are, at least one.
        unknown: our token for ids beyond the tokenizer's, which a model's padded vocabulary may have.
        tokenizers: ours and the reward model's; None where they are the same.
    """

    ids_VM: Tensor
    lengths_V: Tensor
    unknown: int
    tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast] | None = None

    @staticmethod
    def same(tokenizer: PreTrainedTokenizerFast, device: torch.device | str) -> "Spelling":
        ids = torch.arange(vocabulary_size(tokenizer), device=device)
        return Spelling(ids[:, None], torch.ones_like(ids), tokenizer.eos_token_id)

    @staticmethod
    def between(
        ours: PreTrainedTokenizerFast, theirs: PreTrainedTokenizerFast, device: torch.device | str
    ) -> "Spelling":
        """Each token's text written anew, as within a text; special tokens, and those without text, are its end."""
        texts = token_texts(ours, skip_special_tokens=True)
        ids, valid = pad([np.array(ids or [theirs.eos_token_id]) for ids in encode_within(texts, theirs)])
        return Spelling(ids.to(device), valid.sum(1).to(device), ours.eos_token_id, (ours, theirs))

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of any shape [...] → the reward model's, [..., M], and which of them are no padding."""
        tokens = tokens.where(tokens < len(self.lengths_V), self.unknown)
        lengths = self.lengths_V[tokens]
        longest = int(lengths.max()) if lengths.numel() else 1
        return self.ids_VM[tokens][..., :longest], torch.arange(longest, device=tokens.device) < lengths[..., None]

    def prompts(self, prompts_PL: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts as the reward model reads them: another tokenizer writes the whole text anew."""
        if self.tokenizers is None:
            ids, valid = self(prompts_PL)
            return ids.flatten(1), valid.flatten(1)
        ours, theirs = self.tokenizers
        texts = ours.batch_decode(prompts_PL, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ids, valid = pad([row[:-1] for row in encode_texts(texts, theirs)])  # the text does not end here
        return ids.to(prompts_PL.device), valid.to(prompts_PL.device)


class RewardAugmentedDecoder:
    """`RAD` with its reward model.

    Args:
        model: on the device that computes.
        spelling: of its tokenizer.
        top_k, beta, batch_size: as in `RAD`.

    Raises:
        ValueError: a model that does not take the positions of its tokens.
    """

    def __init__(
        self, model: RewardModel, spelling: Spelling, *, top_k: int, beta: float, batch_size: int = 8192
    ) -> None:
        if "position_ids" not in inspect.signature(model.body.forward).parameters:
            raise ValueError(f"decoding=rad: {type(model.body).__name__} takes no position_ids; use another model")
        self.model, self.spelling, self.top_k, self.beta, self.batch_size = model, spelling, top_k, beta, batch_size

    def start(self, prompts_PL: Tensor, samples: int) -> "RewardSteps":
        return RewardSteps(self, prompts_PL, samples)


class RewardSteps:
    """One batch: the reward model's cache of every row so far, some prompts at a time."""

    def __init__(self, decoder: RewardAugmentedDecoder, prompts_PL: Tensor, samples: int) -> None:
        self._decoder, self._width = decoder, prompts_PL.shape[1]
        at_once = max(1, decoder.batch_size // (samples * decoder.top_k))
        self._parts = [
            CachedRewards(decoder.model, ids, valid, samples)
            for prompts in prompts_PL.split(at_once)
            for ids, valid in [decoder.spelling.prompts(prompts)]
        ]

    def __call__(self, ids_RL: Tensor, logits_RV: Tensor) -> Tensor:
        spelling = self._decoder.spelling
        values_RK, candidates_RK = logits_RV.topk(min(self._decoder.top_k, logits_RV.shape[1]))
        sizes = [part.rows for part in self._parts]
        toxicity = []
        for part, new, candidates in zip(
            self._parts, ids_RL[:, self._width :].split(sizes), candidates_RK.split(sizes), strict=True
        ):
            new_ids, new_valid = spelling(new)
            toxicity.append(part(new_ids.flatten(1), new_valid.flatten(1), *spelling(candidates)))
        self._width = ids_RL.shape[1]
        rewards_RK = 1 - torch.cat(toxicity).clamp(0, 1).to(values_RK.dtype)
        rest = torch.full_like(logits_RV, float("-inf"))
        return rest.scatter(1, candidates_RK, values_RK + self._decoder.beta * rewards_RK)

    def keep(self, alive_R: Tensor) -> None:
        for part, alive in zip(self._parts, alive_R.split([part.rows for part in self._parts]), strict=True):
            part.keep(alive)
        self._parts = [part for part in self._parts if part.rows]


class CachedRewards:
    """Toxicities of the candidates of some rows, whose tokens so far are cached.

    All candidates of a row are read in one pass over the row: each sees the row's tokens and its own, and stands at
    the position after them. So the cache is neither copied nor grown by candidates.
    """

    def __init__(self, model: RewardModel, prompts_PC: Tensor, valid_PC: Tensor, samples: int) -> None:
        self._model, self._cache = model, DynamicCache()
        self._check_context(prompts_PC.shape[1])
        # under a causal mask, padding on the right is read by no token of the prompt
        model(prompts_PC, past_key_values=self._cache, use_cache=True)
        self._cache.batch_repeat_interleave(samples)
        self._valid_RC = valid_PC.repeat_interleave(samples, 0)

    @property
    def rows(self) -> int:
        return len(self._valid_RC)

    def __call__(self, new_RN: Tensor, new_valid_RN: Tensor, ids_RKM: Tensor, valid_RKM: Tensor) -> Tensor:
        """Cache the new tokens of each row, and return the toxicity after each of its candidates, [R, K]."""
        (_, candidates, length), new = ids_RKM.shape, new_RN.shape[1]
        valid = torch.cat([self._valid_RC, new_valid_RN], 1)
        places = torch.cat(
            [
                self._valid_RC.sum(1, keepdim=True) + new_valid_RN.cumsum(1) - 1,
                (valid.sum(1)[:, None, None] + valid_RKM.cumsum(2) - 1).flatten(1),
            ],
            1,
        )
        self._check_context(int(places.max()) + 1)
        cached = self._valid_RC.shape[1]
        readable = torch.cat([valid, valid_RKM.flatten(1)], 1)[:, None]
        seen = readable & _tree(cached, new, candidates, length, valid.device)
        # padding sees itself: with nothing to see, attention is undefined
        seen[..., cached:] |= torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)
        mask = seen[:, None]
        if self._model.body.config._attn_implementation == "eager":  # it adds its mask
            dtype = self._model.body.dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        toxicity = self._model(
            torch.cat([new_RN, ids_RKM.flatten(1)], 1),
            attention_mask=mask,
            position_ids=places.clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache.crop(-candidates * length)
        self._valid_RC = valid
        last = valid_RKM.sum(2, keepdim=True) - 1
        return toxicity[:, new:].view(ids_RKM.shape).gather(2, last)[..., 0]

    def _check_context(self, length: int) -> None:
        longest = getattr(self._model.body.config, "max_position_embeddings", length)
        if length > longest:
            raise ValueError(
                f"decoding=rad: the reward model's context is {longest} tokens, prompt and continuation need {length}"
            )

    def keep(self, alive_R: Tensor) -> None:
        self._cache.batch_select_indices(alive_R)
        self._valid_RC = self._valid_RC[alive_R]


def _tree(cached: int, new: int, candidates: int, length: int, device: torch.device) -> Tensor:
    """Which tokens, [C + N + K·M], each new or candidate's token, [N + K·M], may see."""
    size = new + candidates * length
    seen = torch.zeros(size, cached + size, dtype=torch.bool, device=device)
    seen[:, : cached + new] = True
    seen[:, cached : cached + new].tril_()
    own = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    seen[new:, cached + new :] = torch.block_diag(*[own] * candidates)
    return seen
