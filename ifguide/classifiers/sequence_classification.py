"""Any sequence-classification checkpoint of transformers, such as ToxiGen-RoBERTa (Hartvigsen et al., 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig

from ifguide.classifiers.base import TOXICITY, ReadyClassifier
from ifguide.models import check_pretrained


@dataclass(frozen=True, kw_only=True)
class SequenceClassification(ReadyClassifier):
    """Probabilities of the labels of a checkpoint.

    A checkpoint with one label, or one whose configuration says `multi_label_classification`, gives each label a
    sigmoid; any other gives a softmax over its labels.

    Args:
        path: a local folder, or a name on the hub.
        categories: category → its label, by name (as in the checkpoint's `id2label`) or by index; `toxicity` is there.
        max_length: tokens of a text that are read; the rest is cut off.
        batch_size: texts at a time.

    Raises:
        ValueError: no such folder, a label that the checkpoint does not have, no category `toxicity`.
    """

    NOT_SETTINGS: ClassVar = ("batch_size",)

    path: str
    categories: Mapping[str, str | int]
    max_length: int = 128
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_pretrained(self.path, "path")
        for name in ("max_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if TOXICITY not in self.categories:
            raise ValueError(f"categories: no `{TOXICITY}`, only {', '.join(self.categories) or 'nothing'}")
        for category in self.categories:
            self._label(category)

    @property
    def name(self) -> str:
        return Path(self.path).name

    @cached_property
    def _config(self) -> PreTrainedConfig:
        config: PreTrainedConfig = AutoConfig.from_pretrained(self.path)
        return config

    def _label(self, category: str) -> int:
        """Index of a category's label."""
        label = self.categories[category]
        known = {int(index): name for index, name in (self._config.id2label or {}).items()}
        for index, name in known.items():
            if label in (index, name):
                return index
        listed = ", ".join(f"{index}={name}" for index, name in known.items())
        raise ValueError(f"categories.{category}={label}: {self.path} has no such label; its labels are {listed}")

    def load(self, folder: Path | None = None, device: str | torch.device = "cpu") -> "LoadedCheckpoint":
        model = AutoModelForSequenceClassification.from_pretrained(self.path, dtype=torch.float32)
        return LoadedCheckpoint(
            self.name,
            model.to(device).eval(),
            AutoTokenizer.from_pretrained(self.path),
            {category: self._label(category) for category in self.categories},
            max_length=self.max_length,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint with its weights; `labels`: category → index of its label."""

    name: str
    model: Any
    tokenizer: Any
    labels: Mapping[str, int]
    max_length: int
    batch_size: int

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        probabilities = np.zeros((len(texts), self.model.config.num_labels))
        order = np.argsort([-len(text) for text in texts], kind="stable")  # texts of like length together
        for first in tqdm(range(0, len(texts), self.batch_size), desc=self.name, leave=False, disable=None):
            rows = order[first : first + self.batch_size]
            batch = self.tokenizer(
                [texts[row] for row in rows],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=self.max_length,
            )
            logits = self.model(**batch.to(self.model.device)).logits
            probabilities[rows] = self._activate(logits).cpu().numpy()
        return {category: probabilities[:, label].copy() for category, label in self.labels.items()}

    def _activate(self, logits: Tensor) -> Tensor:
        config = self.model.config
        multi_label = config.num_labels == 1 or config.problem_type == "multi_label_classification"
        return logits.double().sigmoid() if multi_label else logits.double().softmax(-1)
