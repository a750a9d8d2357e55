"""The protocols of classifiers: as they are configured, and as they classify."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ifguide.processes import Processes

TOXICITY = "toxicity"
PROBABILITIES_FILE = "probabilities.npz"  # of generations: category → [prompts, samples]
TRIED = ("A short text.", "", "This is one more sentence of a long text. " * 1000)


class Classifier(Protocol):
    """Callable: n texts → category → [n] probabilities. The category `toxicity` is always there.

    `name` is for people. A classifier that fails raises.
    """

    @property
    def name(self) -> str: ...
    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]: ...


class ClassifierSettings(Protocol):
    """A classifier as it is configured: `fit` once, then `load` wherever it is needed."""

    @property
    def name(self) -> str: ...

    def fit(self, folder: Path) -> dict[str, Any]:
        """Write what training yields into a folder, where there is training, or try what is ready; returns facts.

        Raises:
            ValueError: it cannot be trained, or what is ready cannot be used.
        """
        ...

    def load(self, folder: Path, device: str | torch.device) -> Classifier:
        """The classifier on a device.

        Args:
            folder: what `fit` wrote.
            device: where it computes, if it can choose.
        """
        ...


@dataclass(frozen=True)
class SharedClassifier:
    """A classifier that is there in several processes, of which each reads its share of the texts.

    Args:
        classifier: loaded, on the device of this process.
        processes: all of them ask it for the same texts, in the same order.
    """

    classifier: Classifier
    processes: Processes

    @classmethod
    def load(cls, settings: ClassifierSettings, directory: Path, processes: Processes) -> "SharedClassifier":
        """What `settings` left in a folder, on the device of this process."""
        return cls(settings.load(directory, processes.device), processes)

    @property
    def name(self) -> str:
        return self.classifier.name

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        if self.processes.count == 1 or len(texts) < self.processes.count:
            return self.classifier(texts)
        rows = np.arange(len(texts))[self.processes.rank :: self.processes.count]
        found: dict[str, NDArray[np.float64]] = {}
        for category, values in self.classifier([texts[row] for row in rows]).items():
            found[category] = np.zeros(len(texts))
            found[category][rows] = values
        self.processes.fill(rows, *found.values())
        return found


class ReadyClassifier(ABC):
    """Base of classifiers whose weights or scores exist already: in the place of a training, they are tried."""

    @property
    def source(self) -> str:
        """What a message begins with: the argument that says where the classifier is from."""
        return f"_target_={type(self).__name__}"

    @abstractmethod
    def load(self, folder: Path, device: str | torch.device = "cpu") -> Classifier: ...

    def fit(self, folder: Path) -> dict[str, Any]:
        if wrong := what_is_wrong(self.load(folder)):
            raise ValueError(f"{self.source}: {wrong}")
        return {}


def of_category(classifier: Classifier, texts: Sequence[str], category: str) -> NDArray[np.float64]:
    """What a classifier makes of n texts in a category, [n].

    Raises:
        ValueError: it has no such category.
    """
    judged = classifier(texts)
    if category not in judged:
        raise ValueError(f"category={category}: {classifier.name} has {', '.join(judged)}")
    return judged[category]


def what_is_wrong(classifier: Classifier) -> str | None:
    """What keeps a classifier from judging a short, an empty and a long text, alone and together; None: nothing."""
    try:
        alone, both = ([classifier([text]) for text in TRIED], classifier(TRIED))
    except Exception as error:  # whatever it is, later it would end an evaluation
        first = next(iter(str(error).splitlines()), "")
        return f"the classifier fails on a short, an empty and a long text ({type(error).__name__}: {first})"
    for category, values in both.items():
        if values.shape != (len(TRIED),) or not ((values >= 0) & (values <= 1)).all():
            return f"the classifier's `{category}` of three texts is {values.tolist()}, not three probabilities"
        single = np.array([one[category][0] for one in alone])
        if np.abs(values - single).max() > 1e-3:
            return (
                f"the classifier's `{category}` of three texts is {single.tolist()} alone and {values.tolist()} "
                "together: its padding tokens count"
            )
    return None


def folder_name(path: str) -> str:
    """The last two parts of a path or hub name: folders are often called alike, as checkpoint-500."""
    whole = Path(path).absolute() if Path(path).exists() else Path(path)
    return "/".join(whole.parts[-2:])
