"""Classifiers: tried, or trained, before anything that they judge."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ifguide.checks import argument
from ifguide.classifiers.base import ClassifierSettings
from ifguide.cost import CorpusSize, Work
from ifguide.stages import findings
from ifguide.stages.stage import Inputs, Stage, setting


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedClassifier(Stage):
    """A classifier: what it was trained to, or nothing where it came ready and was tried.

    Attributes:
        classifier: its settings.
    """

    name: ClassVar[str] = "classifier"
    version: ClassVar[int] = 2

    classifier: ClassifierSettings = setting()

    def work(self, corpus: CorpusSize) -> Work:
        """One that comes ready is opened; a training is not counted."""
        return Work(seconds=1.0, lacking="its training" if hasattr(self.classifier, "optim") else None)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        with argument("classifier"):
            facts = self.classifier.fit(folder)
        return {"name": self.classifier.name, **facts, **findings.of_judge(self.classifier.name, facts)}
