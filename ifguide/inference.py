"""A model that is read and not trained: in bfloat16, where that is faster and but for rounding predicts the same."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ifguide.hardware import AUTO, BFLOAT16, FLOAT32, computes_bfloat16
from ifguide.models import ModelSettings

DTYPES = (AUTO, FLOAT32, BFLOAT16)
DIVERGENCE = 0.005  # nats for each token, from the prediction in float32
CHECK_BLOCKS, CHECK_TOKENS = 16, 2048  # of a corpus that are read, and compared
LEAST_PARAMETERS = 20_000_000  # of a model: below, what surrounds the products takes longer than they do


def check_dtype(dtype: str, name: str = "dtype") -> None:
    """Raise ValueError where it is none of `DTYPES`; `name` is what the caller calls it."""
    if dtype not in DTYPES:
        raise ValueError(f"{name}={dtype}; known: {', '.join(DTYPES)}")


def load_for_inference(
    settings: ModelSettings, folder: Path, device: torch.device | str, dtype: str, ids_BT: NDArray[np.int64]
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """A model in evaluation mode, in a dtype.

    Args:
        settings, folder, device: as in `ModelSettings.load`.
        dtype: `float32`, `bfloat16`, or `auto`: bfloat16 where the device computes it by hardware, the model has
            `LEAST_PARAMETERS`, and its next token's distribution diverges by no more than `DIVERGENCE`; else float32.
        ids_BT: some blocks of text, of which `CHECK_TOKENS` are compared.

    Returns:
        The model; and facts: its `dtype`, and where both were computed the `divergence`.
    """
    model = settings.load(folder, device)
    if dtype != AUTO:
        return model.to(getattr(torch, dtype)), {"dtype": dtype}
    if not is_faster_rounded(model):
        return model, {"dtype": FLOAT32}
    rounded = copy.deepcopy(model).bfloat16()
    found = divergence(rounded, model, ids_BT[: max(1, CHECK_TOKENS // ids_BT.shape[1])])
    chosen, name = (rounded, BFLOAT16) if found <= DIVERGENCE else (model, FLOAT32)
    return chosen, {"dtype": name, "divergence": found}


def is_faster_rounded(model: PreTrainedModel) -> bool:
    """Whether its device computes bfloat16 by hardware, and the model is large enough to gain by it."""
    return model.num_parameters() >= LEAST_PARAMETERS and computes_bfloat16(model.device)


@torch.no_grad()
def divergence(rounded: PreTrainedModel, exact: PreTrainedModel, ids_BT: NDArray[np.int64]) -> float:
    """Mean KL(exact ‖ rounded) of the next token's distribution in nats, one block at a time."""
    total = 0.0
    for ids in torch.from_numpy(ids_BT).to(exact.device).split(1):
        ours, theirs = (one(input_ids=ids, use_cache=False).logits.float().log_softmax(-1) for one in (rounded, exact))
        total += float((theirs.exp() * (theirs - ours)).sum())
    return total / ids_BT.size
