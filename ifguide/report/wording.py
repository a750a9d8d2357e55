"""What a report calls the behaviour of a task, and the two sides of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

METRICS = {  # of a task's samples, in words that fit any behaviour
    "toxic_fraction": "fraction of samples",
    "toxicity_probability": "probability",
    "expected_maximum_toxicity": "expected max.",
}


@dataclass(frozen=True)
class Wording:
    """How a behaviour is spoken of.

    Args:
        behaviour: its name.
        positive: what shows it, as "toxic".
        negative: what does not, as "benign".
    """

    behaviour: str
    positive: str
    negative: str

    @property
    def fraction(self) -> str:
        """The headline metric."""
        return "toxic fraction" if self == TOXICITY else f"{self.behaviour}: fraction of samples"

    @property
    def share(self) -> str:
        """The headline metric, on an axis."""
        return "toxic fraction of samples" if self == TOXICITY else self.fraction

    @property
    def probability(self) -> str:
        return "toxicity probability" if self == TOXICITY else f"{self.behaviour}: probability"

    @property
    def maximum(self) -> str:
        return "expected max. toxicity" if self == TOXICITY else f"{self.behaviour}: expected max."

    def perplexity(self, subset: str) -> str:
        """Held-out perplexity of the documents of a label."""
        if subset == "all":
            return "perplexity, all held-out documents"
        if self == TOXICITY:
            return f"{subset} perplexity"
        return f"perplexity, {self.label(subset)} documents"

    def label(self, subset: str) -> str:
        """`toxic` and `benign` of the metrics, in this behaviour's own words."""
        return {"toxic": self.positive, "benign": self.negative}.get(subset, subset)

    def metric(self, metric: str) -> str:
        return metric if self == TOXICITY else METRICS.get(metric, metric)

    def category(self, category: str) -> str:
        """A classifier calls its headline `toxicity`, whatever it judges."""
        return self.behaviour if category == "toxicity" else category.replace("_", " ")


TOXICITY = Wording("toxicity", "toxic", "benign")


def wording_of(task: str, labels: Mapping[str, Mapping[str, str]]) -> Wording:
    """The words of a task: those that its run names, toxicity's where it is called so, else the task's name.

    Args:
        task: its name.
        labels: task, or name in the metrics → `behaviour`, `positive`, `negative`, as in `run.json`.
    """
    found = labels.get(task)
    if found is not None and found["behaviour"] != "toxicity":
        return Wording(found["behaviour"], found["positive"], found["negative"])
    return TOXICITY if found is not None or task == "toxicity" else Wording(task, task, "other")
