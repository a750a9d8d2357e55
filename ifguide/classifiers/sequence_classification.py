"""Any sequence-classification checkpoint of transformers, such as ToxiGen-RoBERTa (Hartvigsen et al., 2022)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from ifguide.classifiers.base import TOXICITY
from ifguide.models import check_pretrained


class SequenceClassification:
    """Probabilities of the labels of a checkpoint. Weights are loaded when the first text is classified.

    A checkpoint with one label, or one whose configuration says `multi_label_classification`, gives each label a
    sigmoid; any other gives a softmax over its labels.

    Args:
        path: a local folder, or a name on the hub.
        categories: category → its label, by name (as in the checkpoint's `id2label`) or by index; `toxicity` is there.
        max_length: tokens of a text that are read; the rest is cut off.
        device: `cpu` or `cuda`.
        batch_size: texts at a time.

    Raises:
        ValueError: no such folder, a label that the checkpoint does not have, no category `toxicity`.
    """

    def __init__(
        self,
        *,
        path: str,
        categories: Mapping[str, str | int],
        max_length: int = 128,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        check_pretrained(path, "classifier.path")
        for name, value in (("max_length", max_length), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"classifier.{name}={value}: must be at least 1")
        if TOXICITY not in categories:
            raise ValueError(f"classifier.categories has no `{TOXICITY}`, only {', '.join(categories) or 'nothing'}")
        self.name = Path(path).name
        self._path, self._device, self._batch_size, self._max_length = path, device, batch_size, max_length
        self._config = AutoConfig.from_pretrained(path)
        self._labels = {category: self._label(label) for category, label in categories.items()}

    def _label(self, label: str | int) -> int:
        known = {int(index): name for index, name in self._config.id2label.items()}
        for index, name in known.items():
            if label in (index, name):
                return index
        listed = ", ".join(f"{index}={name}" for index, name in known.items())
        raise ValueError(f"classifier.categories: {self._path} has no label {label!r}; its labels are {listed}")

    @cached_property
    def _model(self) -> Any:
        model = AutoModelForSequenceClassification.from_pretrained(self._path, dtype=torch.float32)
        return model.to(self._device).eval()

    @cached_property
    def _tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self._path)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        probabilities = np.zeros((len(texts), self._config.num_labels))
        order = np.argsort([-len(text) for text in texts], kind="stable")  # texts of like length together
        for first in tqdm(range(0, len(texts), self._batch_size), desc=self.name, leave=False, disable=None):
            rows = order[first : first + self._batch_size]
            batch = self._tokenizer(
                [texts[row] for row in rows],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=self._max_length,
            )
            probabilities[rows] = self._activate(self._model(**batch.to(self._device)).logits).cpu().numpy()
        return {category: probabilities[:, label].copy() for category, label in self._labels.items()}

    def _activate(self, logits: Tensor) -> Tensor:
        multi_label = self._config.num_labels == 1 or self._config.problem_type == "multi_label_classification"
        return logits.double().sigmoid() if multi_label else logits.double().softmax(-1)
