"""A judge of a behaviour that has none: trained on queries that the direction is not made of, and calibrated."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from ifguide.classifiers.base import TOXICITY
from ifguide.classifiers.ngrams import NgramClassifier, NgramNetwork
from ifguide.corpus.documents import Query
from ifguide.corpus.labelled import hash_fraction
from ifguide.statistics import calibration_error, roc_auc
from ifguide.training.classifier import NgramTraining, class_weights
from ifguide.workspace import read_json

CALIBRATION = "calibration.json"
FEWEST = 10  # queries of a class
SMALLEST = 1e-6  # probability before calibration


@dataclass(frozen=True, kw_only=True)
class QueryClassifier(NgramTraining):
    """Trains a classifier of n-grams on one half of a behaviour's queries; the direction is made of the other half.

    It is calibrated, so that 0.5 means as likely as not: p = σ(a · logit + b), fitted to the predictions of networks
    trained without the text in question (Platt, 1999; cross-validation over folds of the texts). What the manifest
    says of it is cross-validated once more: each fold's a and b come from the other folds.

    Args:
        behaviour: its name; None: that of the classifier.
        queries: the half that is judged with; the plan fills it in.
        folds: of the cross-validation.

    Raises:
        ValueError: a setting out of range, or too few queries of a class.
    """

    NOT_SETTINGS: ClassVar = ("behaviour",)

    behaviour: str | None = None
    queries: Sequence[Query] = ()
    epochs: int = 20
    batch_size: int = 32
    folds: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds < 2:
            raise ValueError(f"folds={self.folds}: must be at least 2")
        for shows in (True, False) if self.queries else ():
            found = sum(query.toxic is shows for query in self.queries)
            if found < FEWEST:
                kind = "show" if shows else "do not show"
                raise ValueError(
                    f"queries: {found} of the half that trains the judge {kind} the behaviour, {FEWEST} at least are "
                    "needed; add queries, or choose another classifier"
                )

    @property
    def name(self) -> str:
        return f"trained on {len(self.queries)} queries of {self.behaviour or 'the behaviour'}"

    def fit(self, folder: Path) -> dict[str, Any]:
        """Train, calibrate and save.

        Returns:
            Facts: `texts`, `positive_share`, and cross-validated `roc_auc`, `accuracy`, `calibration_error` (ECE, ten
            bins) and `probabilities`, their 5th, 50th and 95th percentile.
        """
        texts = [query.continuation for query in self.queries]
        shows = np.array([query.toxic for query in self.queries])
        fold = np.array([int(hash_fraction(f"fold {text}") * self.folds) for text in texts])
        weights = class_weights(np.full(len(texts), "queries"), shows)
        logits = np.empty(len(texts))
        for one in np.unique(fold):
            network = self.train(texts, shows, weights, np.flatnonzero(fold != one))
            logits[fold == one] = _logits(network, [text for text, f in zip(texts, fold, strict=True) if f == one])
        judged = np.empty(len(texts))
        for one in np.unique(fold):
            scale, shift = platt(logits[fold != one], shows[fold != one])
            judged[fold == one] = expit(scale * logits[fold == one] + shift)
        self.train(texts, shows, weights, np.arange(len(texts))).save(folder)
        scale, shift = platt(logits, shows)
        (folder / CALIBRATION).write_text(json.dumps({"scale": scale, "shift": shift}), encoding="utf-8")
        return {
            "texts": len(texts),
            "positive_share": float(shows.mean()),
            "roc_auc": roc_auc(judged, shows),
            "accuracy": float(((judged >= 0.5) == shows).mean()),
            "calibration_error": calibration_error(judged, shows),
            "probabilities": np.percentile(judged, [5, 50, 95]).tolist(),
        }

    def load(self, folder: Path, device: str | torch.device = "cpu") -> "CalibratedClassifier":
        """What `fit` saved; it computes on the CPU, whatever the device."""
        found = read_json(folder / CALIBRATION)
        return CalibratedClassifier(NgramNetwork.load(folder), name=self.name, **found)


class CalibratedClassifier:
    """Probability σ(scale · logit + shift) by a trained network."""

    def __init__(self, network: NgramNetwork, *, name: str, scale: float, shift: float) -> None:
        self._network, self.name, self._scale, self._shift = network, name, scale, shift

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        return {TOXICITY: expit(self._scale * _logits(self._network, texts) + self._shift)}


def platt(logits: NDArray[np.float64], shows: NDArray[np.bool_]) -> tuple[float, float]:
    """a ≥ 0 and b of σ(a · logit + b), by maximum likelihood with Platt's targets (Platt, 1999, section 2.2): nobody is
    certain of a class seen n times beyond (n + 1) / (n + 2)."""
    positives = int(shows.sum())
    negatives = len(shows) - positives
    targets = np.where(shows, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(point: NDArray[np.float64]) -> float:
        z = point[0] * logits + point[1]
        return float((np.logaddexp(0, z) - targets * z).mean())

    found = minimize(loss, np.array([1.0, 0.0]), method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return float(found.x[0]), float(found.x[1])


def _logits(network: NgramNetwork, texts: Sequence[str]) -> NDArray[np.float64]:
    probabilities = NgramClassifier(network, name="")(texts)[TOXICITY]
    found: NDArray[np.float64] = logit(np.clip(probabilities, SMALLEST, 1 - SMALLEST))
    return found
