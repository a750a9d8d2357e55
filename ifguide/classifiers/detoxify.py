"""Detoxify (Hanu and Unitary team, 2020): transformer classifiers of toxic comments, several categories."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ifguide.checks import check_whole_number
from ifguide.classifiers.base import TOXICITY, ReadyClassifier, folder_name
from ifguide.opening import check_pretrained, loading

STANDARD = {"toxic": TOXICITY, "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}


@dataclass(frozen=True, kw_only=True)
class DetoxifyClassifier(ReadyClassifier):
    """Probability of `toxicity`, `severe_toxicity`, `obscene`, `threat`, `insult`, `identity_attack`, …

    Args:
        model: `original`, `unbiased` (the paper's) or `multilingual`: from the hub, by the package `detoxify`; or
        checkpoint: a local file of one of these, which needs neither the package nor the network.
        config: folder with the configuration and tokenizer of the checkpoint's base model.
        batch_size: texts at a time.

    Raises:
        ValueError: the package is not installed, no such checkpoint, or one without its configuration.
    """

    NOT_SETTINGS: ClassVar = ("batch_size",)

    model: str = "unbiased"
    checkpoint: str | None = None
    config: str | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_whole_number("batch_size", self.batch_size, least=1)
        if self.checkpoint is not None and not Path(self.checkpoint).is_file():
            raise ValueError(f"checkpoint={self.checkpoint}: no such file")
        if self.checkpoint is not None:
            if self.config is None:
                raise ValueError("config=None: name the folder with configuration and tokenizer of the base model")
            check_pretrained(str(Path(self.config).absolute()), "config", weights=False)
        elif find_spec("detoxify") is None:
            raise ValueError("model: detoxify is not installed: pip install 'ifguide[detoxify]'")

    @property
    def name(self) -> str:
        return f"detoxify {self.model if self.checkpoint is None else folder_name(self.checkpoint)}"

    @property
    def source(self) -> str:
        return f"model={self.model}" if self.checkpoint is None else f"checkpoint={self.checkpoint}"

    def load(self, folder: Path | None = None, device: str | torch.device = "cpu") -> "LoadedDetoxify":
        if self.checkpoint is None:
            from detoxify import Detoxify

            return LoadedDetoxify(self.name, Detoxify(self.model, device=str(device)).predict, self.batch_size)
        assert self.config is not None  # checked when it was made
        predict = OfflineDetoxify(*open_checkpoint(self.checkpoint, self.config, device))
        return LoadedDetoxify(self.name, predict, self.batch_size)


def open_checkpoint(checkpoint: str, config: str, device: str | torch.device) -> tuple[Any, Any, list[str]]:
    """Model, tokenizer and categories of a checkpoint; the package itself would ask the hub for the base model.

    Raises:
        ValueError: it holds something else, or weights of another model.
    """
    try:
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        classes = saved["config"]["dataset"]["args"]["classes"]
        shape, weights = saved["config"]["arch"]["args"], saved["state_dict"]
        model_class, tokenizer_class = (getattr(transformers, shape[key]) for key in ("model_name", "tokenizer_name"))
    except (OSError, RuntimeError, UnpicklingError, EOFError, LookupError, TypeError, AttributeError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise ValueError(f"checkpoint={checkpoint}: not a checkpoint of Detoxify ({first})") from error
    with loading(f"config={config}"):
        settings = model_class.config_class.from_pretrained(config, num_labels=len(classes), local_files_only=True)
        tokenizer = tokenizer_class.from_pretrained(config, local_files_only=True)
    model = model_class(settings)
    try:
        report = model.load_state_dict(weights, strict=False)
    except RuntimeError:
        raise ValueError(f"config={config}: the weights of {checkpoint} have other shapes") from None
    if report.missing_keys:
        raise ValueError(f"checkpoint={checkpoint}: there are no weights of {report.missing_keys[0]}")
    return model.to(device).eval(), tokenizer, [STANDARD.get(name, name) for name in classes]


@dataclass(frozen=True)
class OfflineDetoxify:
    """Texts → category → probabilities, as the package computes them."""

    model: Any
    tokenizer: Any
    categories: Sequence[str]

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> dict[str, list[float]]:
        batch = self.tokenizer(texts, return_tensors="pt", truncation=True, padding=True).to(self.model.device)
        return dict(zip(self.categories, self.model(**batch).logits.sigmoid().T.tolist(), strict=True))


@dataclass(frozen=True)
class LoadedDetoxify:
    """Detoxify with its weights; `predict`: texts → category → probabilities."""

    name: str
    predict: Callable[[list[str]], Mapping[str, Any]]
    batch_size: int

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        parts = [
            self.predict(list(texts[first : first + self.batch_size]))
            for first in tqdm(range(0, len(texts), self.batch_size), desc="Detoxify", leave=False, disable=None)
        ]
        if not parts:
            return {TOXICITY: np.zeros(0)}
        # of a single text the package gives numbers, not lists
        return {
            name: np.concatenate([np.atleast_1d(np.asarray(part[name], float)) for part in parts]) for name in parts[0]
        }
