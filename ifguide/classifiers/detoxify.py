"""Detoxify (Hanu and Unitary team, 2020): transformer classifiers of toxic comments, several categories."""

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ifguide.classifiers.base import TOXICITY


class DetoxifyClassifier:
    """Probability of `toxicity`, `severe_toxicity`, `obscene`, `threat`, `insult`, `identity_attack`, …

    Args:
        model: `original`, `unbiased` (the paper's) or `multilingual`.
        checkpoint: a local checkpoint file; None: from the hub.
        config: folder with the configuration and tokenizer of the checkpoint's base model, for offline use.
        device: `cpu` or `cuda`.
        batch_size: texts at a time.

    Raises:
        ValueError: the package is not installed, or there is no such checkpoint.
    """

    def __init__(
        self,
        *,
        model: str = "unbiased",
        checkpoint: str | None = None,
        config: str | None = None,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        if find_spec("detoxify") is None:
            raise ValueError("classifier=detoxify needs detoxify: pip install 'ifguide[detoxify]'")
        if checkpoint is not None and not Path(checkpoint).is_file():
            raise ValueError(f"classifier.checkpoint={checkpoint}: no such file")
        self.name = f"detoxify {model}" if checkpoint is None else f"detoxify {Path(checkpoint).name}"
        self._batch_size = batch_size
        self._arguments = (
            {"model_type": model, "device": device}
            if checkpoint is None
            else {"checkpoint": checkpoint, "device": device, "huggingface_config_path": config}
        )

    @cached_property
    def _model(self) -> Any:
        """Loaded with the first text: what is found in the workspace needs no weights."""
        from detoxify import Detoxify

        return Detoxify(**self._arguments)

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        parts = [
            self._model.predict(list(texts[first : first + self._batch_size]))
            for first in tqdm(range(0, len(texts), self._batch_size), desc="Detoxify", leave=False, disable=None)
        ]
        if not parts:
            return {TOXICITY: np.zeros(0)}
        return {name: np.concatenate([np.asarray(part[name], float) for part in parts]) for name in parts[0]}
