"""Decoding of RAD: the reward model reads every candidate for the next token, and weighs it."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedTokenizerFast

from ifguide.checks import check_number, check_whole_number
from ifguide.methods.rad.model import RewardModel, load_reward_model
from ifguide.methods.rad.tokens import TokenTranslation
from ifguide.methods.rad.training import RewardTraining
from ifguide.models import LoadOptions
from ifguide.training.auxiliary import Auxiliary, tokenizer_of

CHECKED: "WeakSet[RewardModel]" = WeakSet()

# P prompts, S samples of each, R = P · S rows, L tokens so far, V vocabulary, K candidates a row
# of the reward model: C cached tokens, N new tokens, M tokens a candidate


@dataclass(frozen=True, kw_only=True)
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

    NOT_SETTINGS: ClassVar[tuple[str, ...]] = ("batch_size",)

    reward: RewardTraining
    top_k: int = 20
    beta: float = 50.0
    batch_size: int = 8192

    def __post_init__(self) -> None:
        for name in ("top_k", "batch_size"):
            check_whole_number(name, getattr(self, name), least=1)
        check_number("beta", self.beta, least=0)

    @property
    def auxiliaries(self) -> Mapping[str, Auxiliary]:
        """See `Decoding`."""
        return {"reward": self.reward}

    def load(
        self,
        folders: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str,
        options: LoadOptions,
    ) -> "RewardAugmentedDecoder":
        """See `Decoding`."""
        numbers = {"top_k": self.top_k, "beta": self.beta, "batch_size": self.batch_size}
        return RewardAugmentedDecoder.open(folders["reward"], tokenizer, device=device, options=options, **numbers)  # type: ignore[arg-type]


class RewardAugmentedDecoder:
    """`RAD` with its reward model.

    Args:
        model: on the device that computes.
        translate: our tokens → its own.
        top_k, beta, batch_size: as in `RAD`.

    Raises:
        ValueError: a model that does not take the positions of its tokens, or whose attention is none that we know.
    """

    def __init__(
        self, model: RewardModel, translate: TokenTranslation, *, top_k: int, beta: float, batch_size: int = 8192
    ) -> None:
        if "position_ids" not in inspect.signature(model.body.forward).parameters:
            raise ValueError(
                f"a reward model needs position_ids, which {type(model.body).__name__} does not take; use another model"
            )
        attention_windows(model.body.config)
        self.model, self.translate = model, translate
        self.top_k, self.beta, self.batch_size = top_k, beta, batch_size

    @staticmethod
    def open(
        folder: Path,
        tokenizer: PreTrainedTokenizerFast,
        *,
        top_k: int,
        beta: float,
        batch_size: int = 8192,
        device: torch.device | str = "cpu",
        options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
    ) -> "RewardAugmentedDecoder":
        """The decoder of a reward model's folder.

        Args:
            folder: an artifact `auxiliary.reward`.
            tokenizer: of the model that is steered.
            top_k, beta, batch_size: as in `RAD`.
            device: where the steered model generates.
            options: how the reward model is loaded.
        """
        attention = options.attention if options.attention == "eager" else "sdpa"  # those that take such a mask
        model = load_reward_model(folder, **asdict(replace(options, attention=attention)))
        model.to(device).eval()
        theirs = tokenizer_of(folder, tokenizer)
        tokens = TokenTranslation.same(tokenizer, device, model.body.config)
        if theirs.get_vocab() != tokenizer.get_vocab():
            tokens = TokenTranslation.between(tokenizer, theirs, device, model.body.config)
        return RewardAugmentedDecoder(model, tokens, top_k=top_k, beta=beta, batch_size=batch_size)

    def start(self, prompts_PL: Tensor, samples: int) -> "RewardState":
        return RewardState(self, prompts_PL, samples)


class RewardState:
    """One batch: the reward model's cache of every row so far, some prompts at a time."""

    def __init__(self, decoder: RewardAugmentedDecoder, prompts_PL: Tensor, samples: int) -> None:
        self._decoder, self._width = decoder, prompts_PL.shape[1]
        at_once = max(1, decoder.batch_size // (samples * decoder.top_k))
        self._parts = [
            CachedRewards(decoder.model, ids, valid, samples)
            for prompts in prompts_PL.split(at_once)
            for ids, valid in [decoder.translate.prompts(prompts)]
        ]

    def __call__(self, ids_RL: Tensor, logits_RV: Tensor) -> Tensor:
        translate = self._decoder.translate
        values_RK, candidates_RK = logits_RV.topk(min(self._decoder.top_k, logits_RV.shape[1]))
        sizes = [part.rows for part in self._parts]
        toxicity = []
        for part, new, candidates in zip(
            self._parts, ids_RL[:, self._width :].split(sizes), candidates_RK.split(sizes), strict=True
        ):
            new_ids, new_valid = translate(new)
            toxicity.append(part(new_ids.flatten(1), new_valid.flatten(1), *translate(candidates)))
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
        self._windows = attention_windows(model.body.config)
        self._check_context(prompts_PC.shape[1])
        # under a causal mask, padding on the right is read by no token of the prompt
        model(prompts_PC, past_key_values=self._cache, use_cache=True)
        self._cache.batch_repeat_interleave(samples)
        self._valid_RC = valid_PC.repeat_interleave(samples, 0)
        self._all_RC = prompts_PC.repeat_interleave(samples, 0)

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
        away = places[..., None] - torch.cat([self._valid_RC.cumsum(1) - 1, places], 1)[:, None]  # of seen tokens
        masks = {
            kind: self._mask(seen if size is None else seen & (away < size)) for kind, size in self._windows.items()
        }
        toxicity: Tensor = self._model(
            torch.cat([new_RN, ids_RKM.flatten(1)], 1),
            attention_mask=masks if len(masks) > 1 else masks.popitem()[1],
            position_ids=places.clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache.crop(-candidates * length)
        self._valid_RC = valid
        last = valid_RKM.sum(2, keepdim=True) - 1
        found = toxicity[:, new:].view(ids_RKM.shape).gather(2, last)[..., 0]
        self._all_RC = torch.cat([self._all_RC, new_RN], 1)
        if self._model not in CHECKED:
            self._check(ids_RKM[0, -1][valid_RKM[0, -1]], found[0, -1])  # behind all others
            CHECKED.add(self._model)
        return found

    def _check(self, candidate: Tensor, toxicity: Tensor) -> None:
        """Raise ValueError where the model does not keep to the mask and the positions that it is given."""
        whole = torch.cat([self._all_RC[0][self._valid_RC[0]], candidate])[None]
        expected = self._model(whole, use_cache=False)[0, -1]
        if not torch.allclose(toxicity, expected, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"the reward model, a {type(self._model.body).__name__}, reads a candidate beside others as "
                f"{toxicity:.3g} and alone as {expected:.3g}: it does not keep to its mask; use another model"
            )

    def _mask(self, seen: Tensor) -> Tensor:
        """What a model takes as its mask, of which tokens are seen, [R, N + K·M, C + N + K·M]."""
        # padding sees itself: with nothing to see, attention is undefined
        own = torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)
        mask = torch.cat([seen[..., : -len(own)], seen[..., -len(own) :] | own], -1)[:, None]
        if self._model.body.config._attn_implementation == "eager":  # it adds its mask
            dtype = self._model.body.dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        return mask

    def _check_context(self, length: int) -> None:
        longest = getattr(self._model.body.config, "max_position_embeddings", length)
        if length > longest:
            raise ValueError(f"the reward model's context is {longest} tokens, prompt and continuation need {length}")

    def keep(self, alive_R: Tensor) -> None:
        self._cache.batch_select_indices(alive_R)
        self._valid_RC = self._valid_RC[alive_R]
        self._all_RC = self._all_RC[alive_R]


def attention_windows(config: PreTrainedConfig) -> dict[str, int | None]:
    """Kind of a layer's attention → how many tokens back it sees, itself among them; None: all.

    Raises:
        ValueError: a kind that is neither full nor a sliding window.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ("full_attention" if window is None else "sliding_attention",)
    if other := set(kinds) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"a reward model with {', '.join(sorted(other))} is not read here; use another model")
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


def _tree(cached: int, new: int, candidates: int, length: int, device: torch.device) -> Tensor:
    """Which tokens, [C + N + K·M], each new or candidate's token, [N + K·M], may see."""
    size = new + candidates * length
    seen = torch.zeros(size, cached + size, dtype=torch.bool, device=device)
    seen[:, : cached + new] = True
    seen[:, cached : cached + new].tril_()
    own = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    seen[new:, cached + new :] = torch.block_diag(*[own] * candidates)
    return seen
