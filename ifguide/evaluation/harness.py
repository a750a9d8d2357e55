"""Tasks of the Language Model Evaluation Harness (EleutherAI), as a utility."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import check_limit, check_whole_number
from ifguide.corpus.tokenizers import beginning_of_text
from ifguide.evaluation.fluency import Metrics

STANDARD_NORMAL = 1.96  # half of a 95 % interval, in standard errors


@dataclass(frozen=True, kw_only=True)
class HarnessTasks:
    """Runs tasks of `lm_eval` on the model.

    Args:
        tasks: names of tasks or groups of the harness, or of the folder.
        include_path: folder with task definitions (YAML) of one's own; what they read may be local.
        num_fewshot: examples in the prompt; None: each task's own number.
        limit: at most this many cases of each task.
        batch_size: cases at a time.
        bootstrap: samples of the harness's bootstrap, for the intervals of metrics whose standard error has no formula.

    Raises:
        ValueError: the package is not installed, no task is named, the harness does not know one, there is no such
            folder, or a limit below 1.
    """

    NOT_SETTINGS: ClassVar = ("batch_size",)

    tasks: Sequence[str]
    include_path: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 16
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        check_whole_number("batch_size", self.batch_size, least=1)
        if self.bootstrap < 1:  # the harness then leaves out all standard errors, those with a formula too
            raise ValueError(f"bootstrap={self.bootstrap}: must be at least 1")
        if find_spec("lm_eval") is None:
            raise ValueError("lm-eval is not installed: pip install 'ifguide[lm_eval]'")
        check_limit(self.limit)
        if not self.tasks:
            raise ValueError("tasks: name at least one task of the harness")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise ValueError(f"include_path={self.include_path}: no such folder")
        if unknown := [task for task in self.tasks if task not in self._manager.all_tasks]:
            raise ValueError(f"tasks: the harness knows no {', '.join(unknown)}; `lm_eval ls tasks` lists all")

    @cached_property
    def _manager(self) -> Any:
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=self.include_path)

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Metrics:
        """task → the harness's metrics of that task by their names there, with intervals of ± 1.96 standard errors;
        `all` has the number of tasks, and the mean of `acc` where every task has one. A group is no task."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        own = beginning_of_text(tokenizer, model.config)
        harness = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=self.batch_size,
            prefix_token_id=own,
            add_bos_token=own != tokenizer.eos_token_id,
        )
        found = simple_evaluate(
            model=harness,
            tasks=list(self.tasks),
            task_manager=self._manager,
            num_fewshot=self.num_fewshot,
            limit=self.limit,
            bootstrap_iters=self.bootstrap,
            log_samples=False,
        )
        assert found is not None
        groups = {group for group, members in found["group_subtasks"].items() if members}
        return summarise({task: harness_metrics(values) for task, values in found["results"].items()}, groups)


def summarise(results: Mapping[str, dict[str, Any]], groups: Collection[str]) -> Metrics:
    """The metrics of tasks and groups behind those of `all`, where the tasks of a group count once."""
    found = {name: values for name, values in results.items() if values}
    tasks = [values for name, values in found.items() if name not in groups]
    summary: dict[str, Any] = {"tasks": len(tasks)}
    if tasks and all("acc" in values for values in tasks):
        summary["acc"] = float(np.mean([values["acc"] for values in tasks]))
        if all("acc_interval" in values for values in tasks):
            halves = [values["acc_interval"][1] - values["acc"] for values in tasks]
            half = float(np.linalg.norm(halves)) / len(tasks)
            summary["acc_interval"] = [summary["acc"] - half, summary["acc"] + half]
    return {"all": summary, **found}


def harness_metrics(values: dict[str, Any]) -> dict[str, Any]:
    """`acc,none` and `acc_stderr,none` of the harness as `acc` and `acc_interval`; a filter's name goes along."""
    metrics: dict[str, Any] = {}
    for key, value in values.items():
        name, comma, chosen = key.partition(",")
        if not comma or not isinstance(value, int | float) or name.endswith("_stderr"):
            continue
        label = name if chosen == "none" else f"{name}_{chosen}"
        metrics[label] = float(value)
        error = values.get(f"{name}_stderr,{chosen}")
        if isinstance(error, int | float):
            metrics[f"{label}_interval"] = [value - STANDARD_NORMAL * error, value + STANDARD_NORMAL * error]
    return metrics
