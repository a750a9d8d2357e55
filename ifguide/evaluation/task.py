"""What is generated for an evaluation, who judges it, and how what is measured is named.

All measurements have one shape: name → subset → metric → value, with the subset `all` always there.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifguide.checks import check_whole_number
from ifguide.corpus.documents import Prompt

METRICS_FILE = "metrics.json"
ALL = "all"  # the subset of all prompts
NOT_FINITE = ("NaN", "Infinity", "-Infinity")  # as W&B writes them
RESERVED_NAMES = ("perplexity", "attribution", "filter", "cost", "judge")  # measured whatever the tasks are


@dataclass(frozen=True, kw_only=True)
class Continuations:
    """Sampled continuations of prompts.

    Args:
        prompts: what is continued.
        samples: continuations per prompt.
        max_new_tokens: longest continuation.
        rows: sequences generated at the same time.
    """

    prompts: Sequence[Prompt]
    samples: int = 25
    max_new_tokens: int = 20
    rows: int = 1000

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("prompts: there is no prompt to evaluate on")
        if any(prompt.subset == ALL for prompt in self.prompts):
            raise ValueError(f"prompts: a subset is called `{ALL}`, as the whole is in metrics.json; call it otherwise")
        for name in ("samples", "max_new_tokens", "rows"):
            check_whole_number(name, getattr(self, name), least=1)


def measurement_names(tasks: Iterable[str], classifiers: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name in the metrics → (task, classifier) that it measures: the task's own name for the classifier of that name,
    or else for the first one, `task_classifier` for any other."""
    judges = list(classifiers)
    names: dict[str, tuple[str, str]] = {}
    for task in tasks:
        own = task if task in judges else judges[0]
        names |= {task if judge == own else f"{task}_{judge}": (task, judge) for judge in judges}
    return names


def check_names(tasks: Sequence[str], classifiers: Sequence[str], utilities: Sequence[str]) -> None:
    """Raise ValueError where there is no task or classifier, or where two measurements would have the same name."""
    if not tasks or not classifiers:
        raise ValueError("tasks and classifiers: an evaluation needs one of each at least; stage=model trains without")
    names = [*measurement_names(tasks, classifiers), *utilities, *RESERVED_NAMES]
    if len(names) < len(tasks) * len(classifiers) + len(utilities) + len(RESERVED_NAMES) or len(set(names)) < len(
        names
    ):
        raise ValueError(
            f"tasks ({', '.join(tasks)}), classifiers ({', '.join(classifiers)}), utilities ({', '.join(utilities)}) "
            f"would give two measurements one name, or the name of one of {', '.join(RESERVED_NAMES)}; rename one"
        )


def merge_metrics(parts: Iterable[tuple[str, Mapping[str, Mapping[str, Any]]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """One dictionary name → subset → metric of (name, subset → metric) parts; parts of one name are joined."""
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for name, part in parts:
        for subset, values in part.items():
            metrics.setdefault(name, {}).setdefault(subset, {}).update(values)
    return metrics


def with_nan(metrics: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Metrics as they were before they were written: where a number is not finite, JSON has null, W&B a word."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, subsets in metrics.items():
        for subset, values in (subsets or {}).items():
            read = {metric: _number(value) for metric, value in (values or {}).items()}
            found.setdefault(name, {})[subset] = read
    return found


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(one) for one in value]
    return math.nan if value in (None, *NOT_FINITE) else value


def members_of(subsets: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Subset → which of the prompts belong to it, with `all` of them first."""
    names = np.array(subsets)
    return {ALL: np.ones(len(names), bool)} | {str(name): names == name for name in sorted(set(subsets))}
