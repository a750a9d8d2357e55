"""A model's logits for the next token of rows that grow: by its cache where that is right, else from the whole text."""

import inspect
import logging
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ifguide.opening import context_length

# P prompts, S samples of each, R = P · S rows, L tokens so far, V vocabulary

log = logging.getLogger(__name__)
ROWS = 64  # that are read whole at a time
TRUSTED: "WeakKeyDictionary[PreTrainedModel, bool]" = WeakKeyDictionary()  # model → whether its cache is right


class NextLogits:
    """The logits of the next token of every row of a batch.

    Not every model takes the cache that it is handed: some leave it aside without a word, some fail on it. So the
    first steps with a cache are compared with the whole text, once for each model; where they differ, every step reads
    the whole text, which is slower, and a line says so.

    Args:
        model: on the device that computes, in evaluation mode.
        prompts_PL: prompts of equal length.
        samples: rows of each prompt, beside each other.
    """

    def __init__(self, model: PreTrainedModel, prompts_PL: Tensor, samples: int) -> None:
        if model not in TRUSTED:
            fault = fault_of_cache(model, prompts_PL)
            TRUSTED[model] = fault is None
            if fault is not None:
                log.warning("%s generates without a cache, slower: %s", type(model).__name__, fault)
        kind = _Cached if TRUSTED[model] else _Whole
        self._rows: _Cached | _Whole = kind(model, prompts_PL, samples)

    def __call__(self, ids_RL: Tensor) -> Tensor:
        """[R, V], of all tokens so far of the rows that are left."""
        return self._rows(ids_RL)

    def keep(self, alive_R: Tensor) -> None:
        """Forget the rows that are not True."""
        self._rows.keep(alive_R)


class _Cached:
    def __init__(self, model: PreTrainedModel, prompts_PL: Tensor, samples: int) -> None:
        self._model, self._cache, self._width = model, DynamicCache(config=model.config), prompts_PL.shape[1]
        self._logits = self._read(prompts_PL).repeat_interleave(samples, 0)
        self._cache.batch_repeat_interleave(samples)

    def _read(self, ids: Tensor) -> Tensor:
        logits: Tensor = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True).logits
        return logits[:, -1]

    def __call__(self, ids_RL: Tensor) -> Tensor:
        if ids_RL.shape[1] > self._width:
            self._logits = self._read(ids_RL[:, self._width :])
            self._width = ids_RL.shape[1]
        return self._logits

    def keep(self, alive_R: Tensor) -> None:
        self._cache.batch_select_indices(alive_R)
        self._logits = self._logits[alive_R]


class _Whole:
    def __init__(self, model: PreTrainedModel, prompts_PL: Tensor, samples: int) -> None:
        self._model = model
        takes = inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def __call__(self, ids_RL: Tensor) -> Tensor:
        read = [
            self._model(input_ids=ids, use_cache=False, **self._options).logits[:, -1] for ids in ids_RL.split(ROWS)
        ]
        return torch.cat(read)

    def keep(self, alive_R: Tensor) -> None:
        pass


@torch.no_grad()
def fault_of_cache(model: PreTrainedModel, prompts_PL: Tensor) -> str | None:
    """What is wrong with a model's cache behind some prompts; None: nothing.

    Two steps of two rows each, of which one row is forgotten after the first step.
    """
    ids = prompts_PL[:2, : max(1, context_length(model.config) - 2)]
    rows = ids.repeat_interleave(2, 0)
    vocabulary = model.config.get_text_config().vocab_size
    try:
        cached, whole = _Cached(model, ids, 2), _Whole(model, ids, 2)
        for step in (1, 2):
            new = (rows[:, -1:] + step + torch.arange(len(rows), device=rows.device)[:, None]) % vocabulary
            rows = torch.cat([rows, new], 1)
            ours, expected = (logits(rows).double() for logits in (cached, whole))
            error, size = float((ours - expected).norm()), float((expected - expected.mean(-1, keepdim=True)).norm())
            if not error <= size * (1e-3 if model.dtype.itemsize >= 4 else 0.1):
                return f"with one its logits differ by {error:.2g}, they are of size {size:.2g}"
            alive = torch.arange(len(rows), device=rows.device) > 0
            rows = rows[alive]
            cached.keep(alive)
    except Exception as error:  # of any kind, of any architecture
        return f"its cache fails ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    return None
