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

from ifguide.checks import check_whole_number
from ifguide.classifiers.base import TOXICITY, ReadyClassifier, folder_name
from ifguide.opening import check_pretrained, loading

ACTIVATIONS = ("softmax", "sigmoid", "none")
MULTI_LABEL = "multi_label_classification"
TOLERANCE = 0.25  # beyond [0, 1], of a regression on probabilities


@dataclass(frozen=True, kw_only=True)
class SequenceClassification(ReadyClassifier):
    """Probabilities of the labels of a checkpoint.

    A checkpoint whose configuration says `multi_label_classification` gives each label a sigmoid, any other a softmax
    over its labels. One that was trained as a regression, or that has one label and does not say what that is, is only
    taken with an `activation`.

    Args:
        path: a local folder, or a name on the hub.
        categories: category → its label, by name (as in the checkpoint's `id2label`) or by index; `toxicity` is there.
        activation: what makes the outputs probabilities: `softmax`, `sigmoid`, or `none` where they are such already
            and are only kept within [0, 1]; None: what the checkpoint says.
        max_length: tokens of a text that are read; the rest is cut off.
        batch_size: texts at a time; a checkpoint whose tokenizer has no padding token reads one at a time.

    Raises:
        ValueError: no such folder, a label that the checkpoint does not have, no category `toxicity`, a checkpoint
            whose outputs are no probabilities, or that reads fewer tokens than `max_length`.
    """

    NOT_SETTINGS: ClassVar = ("batch_size",)
    LEFT_OUT_AT_DEFAULT: ClassVar = ("activation",)

    path: str
    categories: Mapping[str, str | int]
    activation: str | None = None
    max_length: int = 128
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_pretrained(self.path, "path")
        for name in ("max_length", "batch_size"):
            check_whole_number(name, getattr(self, name), least=1)
        if TOXICITY not in self.categories:
            raise ValueError(f"categories: no `{TOXICITY}`, only {', '.join(self.categories) or 'nothing'}")
        for category in self.categories:
            self._label(category)
        self._check_activation()
        longest = getattr(self._config, "max_position_embeddings", None)
        if longest and self.max_length > longest and not getattr(self._config, "relative_attention", False):
            raise ValueError(f"max_length={self.max_length}: {self.path} reads {longest} tokens at most")

    def _check_activation(self) -> None:
        if self.activation not in (None, *ACTIVATIONS):
            raise ValueError(f"activation={self.activation}; known: {', '.join(ACTIVATIONS)}, or null")
        problem = self._config.problem_type
        is_regression = problem == "regression"
        if is_regression and self.activation in ("sigmoid", "softmax"):
            raise ValueError(f"activation={self.activation}: {self.path} is a regression; its outputs are no logits")
        if self.activation is None and (is_regression or (self._config.num_labels == 1 and problem != MULTI_LABEL)):
            raise ValueError(
                f"activation=None: {self.path} has problem_type={problem} and {self._config.num_labels} label(s), so "
                "its outputs need not be probabilities; say what makes them such: "
                + ("none" if is_regression else "sigmoid (logits) or none (probabilities)")
            )

    @property
    def name(self) -> str:
        return folder_name(self.path)

    @property
    def source(self) -> str:
        return f"path={self.path}"

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
        with loading(f"path={self.path}"):
            model, report = AutoModelForSequenceClassification.from_pretrained(
                self.path, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(self.path, padding_side="right")  # positions count from the left
        if missing := report["missing_keys"]:
            raise ValueError(f"path={self.path}: there are no weights of {sorted(missing)[0]}; it is no classifier")
        if model.config.pad_token_id is None and tokenizer.pad_token is not None:
            model.config.pad_token_id = tokenizer.pad_token_id
        default = "sigmoid" if model.config.problem_type == MULTI_LABEL else "softmax"
        return LoadedCheckpoint(
            self.name,
            model.to(device).eval(),
            tokenizer,
            {category: self._label(category) for category in self.categories},
            activation=self.activation or default,
            max_length=self.max_length,
            batch_size=1 if tokenizer.pad_token is None else self.batch_size,
        )


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint with its weights; `labels`: category → index of its label."""

    name: str
    model: Any
    tokenizer: Any
    labels: Mapping[str, int]
    activation: str
    max_length: int
    batch_size: int

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        probabilities = np.zeros((len(texts), self.model.config.num_labels))
        nothing = self._nothing
        order = np.argsort([-len(text) for text in texts], kind="stable")  # texts of like length together
        for first in tqdm(range(0, len(texts), self.batch_size), desc=self.name, leave=False, disable=None):
            rows = order[first : first + self.batch_size]
            batch = self.tokenizer(
                [texts[row] or nothing for row in rows],
                return_tensors="pt",
                padding=self.tokenizer.pad_token is not None,
                truncation=True,
                max_length=self.max_length,
            )
            logits = self.model(**batch.to(self.model.device)).logits
            probabilities[rows] = self._probabilities(logits.double()).cpu().numpy()
        return {category: probabilities[:, label].copy() for category, label in self.labels.items()}

    @property
    def _nothing(self) -> str:
        """What an empty text is read as: a model needs one token, and some tokenizers write none."""
        return "" if self.tokenizer("").input_ids else str(self.tokenizer.eos_token or " ")

    def _probabilities(self, logits: Tensor) -> Tensor:
        if self.activation == "none":
            if (logits < -TOLERANCE).any() or (logits > 1 + TOLERANCE).any():
                raise ValueError(
                    f"{self.name} gives {logits.min():.3g} … {logits.max():.3g}: these are no probabilities"
                )
            return logits.clamp(0, 1)
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(-1)
