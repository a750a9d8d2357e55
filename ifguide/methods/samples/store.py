"""Samples on disk, token by token: a text that is encoded again need not have the tokens that were drawn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifguide.workspace import open_archive

SAMPLES_FILE = "samples.npz"

# P prompts, S samples of each, N new tokens


def save_samples(path: Path, prompts: Sequence[Sequence[int]], continuations_PSN: NDArray[np.int64]) -> None:
    """Write the tokens of prompts and of their continuations.

    Args:
        path: of the file.
        prompts: token ids of each.
        continuations_PSN: of `sample_continuations`: filled with the token that ends a text after their end.
    """
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    tokens = np.concatenate([np.asarray(prompt, dtype=np.int64) for prompt in prompts])
    np.savez(path, prompts=tokens, lengths=lengths, continuations=continuations_PSN)


def load_samples(path: Path) -> tuple[list[list[int]], NDArray[np.int64]]:
    """What `save_samples` wrote: the prompts, and [prompts, samples, new tokens]."""
    file = open_archive(path, "prompts", "lengths", "continuations")
    ends = np.cumsum(file["lengths"])[:-1]
    return [part.tolist() for part in np.split(file["prompts"], ends)], file["continuations"]
