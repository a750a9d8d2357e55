"""Sequences of different lengths as one batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def pad(sequences: Sequence[NDArray[Any]]) -> tuple[Tensor, Tensor]:
    """Sequences padded on the right with zeros, where no token of a causal model looks, and which are real: [B, T]."""
    longest = max(map(len, sequences))
    padded = np.zeros((len(sequences), longest), dtype=sequences[0].dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return torch.from_numpy(padded), torch.arange(longest) < lengths[:, None]
