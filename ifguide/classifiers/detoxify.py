"""Detoxify (Hanu and Unitary team, 2020): transformer classifiers of toxic comments, several categories."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ifguide.classifiers.base import TOXICITY, ReadyClassifier


@dataclass(frozen=True, kw_only=True)
class DetoxifyClassifier(ReadyClassifier):
    """Probability of `toxicity`, `severe_toxicity`, `obscene`, `threat`, `insult`, `identity_attack`, …

    Args:
        model: `original`, `unbiased` (the paper's) or `multilingual`.
        checkpoint: a local checkpoint file; None: from the hub.
        config: folder with the configuration and tokenizer of the checkpoint's base model, for offline use.
        batch_size: texts at a time.

    Raises:
        ValueError: the package is not installed, or there is no such checkpoint.
    """

    NOT_SETTINGS: ClassVar = ("batch_size",)

    model: str = "unbiased"
    checkpoint: str | None = None
    config: str | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: must be at least 1")
        if self.checkpoint is not None and not Path(self.checkpoint).is_file():
            raise ValueError(f"checkpoint={self.checkpoint}: no such file")
        if find_spec("detoxify") is None:
            raise ValueError("detoxify is not installed: pip install 'ifguide[detoxify]'")

    @property
    def name(self) -> str:
        return f"detoxify {self.model if self.checkpoint is None else Path(self.checkpoint).name}"

    def load(self, folder: Path | None = None, device: str | torch.device = "cpu") -> "LoadedDetoxify":
        from detoxify import Detoxify

        source = (
            {"model_type": self.model}
            if self.checkpoint is None
            else {"checkpoint": self.checkpoint, "huggingface_config_path": self.config}
        )
        return LoadedDetoxify(self.name, Detoxify(**source, device=str(device)), self.batch_size)


@dataclass(frozen=True)
class LoadedDetoxify:
    """Detoxify with its weights."""

    name: str
    model: Any
    batch_size: int

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        parts = [
            self.model.predict(list(texts[first : first + self.batch_size]))
            for first in tqdm(range(0, len(texts), self.batch_size), desc="Detoxify", leave=False, disable=None)
        ]
        if not parts:
            return {TOXICITY: np.zeros(0)}
        return {name: np.concatenate([np.asarray(part[name], float) for part in parts]) for name in parts[0]}
