"""Weights & Biases: what a run logs there, and runs read back from there."""

from __future__ import annotations

import netrc
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from ifguide.evaluation.task import with_nan
from ifguide.report.gather import Run, gather, split_override
from ifguide.report.rows import Comparison, compare_rows
from ifguide.report.table import TOXICITY_CATEGORY
from ifguide.report.wording import wording_of
from ifguide.workspace import global_rank

ID_FILE = "wandb_id"  # in a run's folder: whoever continues there continues the same W&B run
SWEEP_FILE = "multirun.yaml"  # that Hydra leaves in a sweep's folder
WHOLE_RUN = "run"  # the name of what is not one of its trainings
MOST_ROWS = 10_000  # of a table of generations; W&B draws no more
METRICS = "metrics"
INTERVAL, ENDS = "_interval", ("_low", "_high")
LONGEST_NAMES = {"label": 128, "group": 128, "job_type": 64, "tags": 64}  # of W&B, in characters


class WandbRun(WandbLogger):
    """The W&B run of a run's folder: its settings, the curves of each of its trainings, then what it found.

    All trainings of a run write into one W&B run, each under its name.

    Args:
        name: the training (`model`, `proxy`), or `run` for the whole.
        directory: the run's folder.
        project, entity: of W&B.
        label: the name shown there.
        group: None: the sweep's folder, where it is part of one.
        job_type, tags: to find it by.
        offline: write to disk only, for `wandb sync`; None: where W&B has no API key here and `WANDB_MODE` is not set.

    Raises:
        ValueError: a name that W&B would refuse, offline perhaps only when it is synchronised.
    """

    def __init__(
        self,
        name: str,
        directory: str,
        project: str,
        entity: str | None = None,
        label: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] | None = None,
        offline: bool | None = None,
    ) -> None:
        self.training, self.directory = name, Path(directory).absolute()
        group, tags = group or sweep_of(self.directory), list(tags or ())
        given = [("label", label), ("group", group), ("job_type", job_type), *(("tags", tag) for tag in tags)]
        for argument, value in given:
            if value is not None and not 1 <= len(value) <= LONGEST_NAMES[argument]:
                raise ValueError(f"{argument}={value}: W&B takes names of 1 to {LONGEST_NAMES[argument]} characters")
        if offline is None:
            offline = "WANDB_MODE" not in os.environ and not has_api_key()
        super().__init__(
            name=label,
            save_dir=str(directory),
            project=project,
            entity=entity,
            group=group,
            job_type=job_type,
            tags=tags,
            mode="offline" if offline else None,
            id=kept_id(self.directory),
        )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        prefix = "" if self.training == WHOLE_RUN else f"{self.training}/"
        super().log_metrics({f"{prefix}{name}": value for name, value in metrics.items()}, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        if self.training == WHOLE_RUN:  # a training has the settings of its run
            super().log_hyperparams(params)

    @rank_zero_only
    def log_run(self, folder: Path) -> None:
        """Final metrics, the table, plots, pages and generations, from the files of a run's folder."""
        (own,) = gather([str(folder)])
        if own.metrics is not None:
            known = {"notes": list(own.notes), "labels": {task: dict(words) for task, words in own.labels.items()}}
            self.experiment.summary.update({**dict(flattened(own.metrics, METRICS)), **known})
            for name in own.metrics:
                if rows := generation_rows(own, name):
                    behaviour = wording_of(
                        name if name in own.labels else own.judged.get(name, name), own.labels
                    ).behaviour
                    columns = ["record", "subset", "prompt", "continuation", behaviour]
                    self.log_table(f"generations/{name}", columns=columns, data=rows)
        self.log_comparison(compare_rows([own], reference=None), folder)

    @rank_zero_only
    def log_comparison(self, comparison: Comparison, folder: Path) -> None:
        """The table of a report, as numbers, and all plots and pages of a folder."""
        import wandb

        columns = ["method", "seeds", "problem"]
        for column in comparison.columns:
            columns += [column.header, f"{column.header} low", f"{column.header} high"]
        data: list[list[Any]] = []
        for row in comparison.rows:
            line: list[Any] = [row.name, " ".join(map(str, row.seeds)), row.problem or ""]
            for column in comparison.columns:
                measured = row.cells.get(column)
                line += [None] * 3 if measured is None else [measured.value, *(measured.interval or (None, None))]
            data.append(line)
        self.log_table("report/table", columns=columns, data=data)
        plots = {f"report/{file.stem}": wandb.Image(str(file)) for file in sorted(Path(folder).glob("*.png"))}
        pages = {f"report/{file.stem}": wandb.Html(file.read_text("utf-8"), inject=False) for file in pages_in(folder)}
        if plots or pages:
            self.experiment.log({**plots, **pages})


def pages_in(folder: Path) -> list[Path]:
    """The report and the token pages of a folder."""
    return [*sorted(Path(folder).glob("report.html")), *sorted(Path(folder).glob("tokens-*.html"))]


def finish_tracking(failure: str | None = None) -> None:
    """Close the W&B run of this process, where there is one, so that the next of a sweep gets its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        if failure is not None:
            wandb.run.summary["failure"] = failure
        wandb.finish(exit_code=int(failure is not None))


def kept_id(directory: Path) -> str:
    """The id of a folder's W&B run, made once, by the process that writes to it."""
    file = directory / ID_FILE
    if global_rank() > 0:
        return ""
    if not file.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def sweep_of(directory: Path) -> str | None:
    """Date and time of the sweep that a folder is, or is part of."""
    sweep = next((folder for folder in (directory, directory.parent) if (folder / SWEEP_FILE).is_file()), None)
    return None if sweep is None else "/".join(sweep.parts[-2:])


def has_api_key() -> bool:
    """Whether W&B would find a key here, in the environment or in a netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    host = urlparse(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).hostname or ""
    files = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        try:
            if netrc.netrc(str(file)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def generation_rows(run: Run, name: str) -> list[list[Any]]:
    """(record, subset, prompt, continuation, toxicity) of all samples of a task, or of evenly spaced prompts."""
    scores = run.prompt_scores(name)
    if scores is None:
        return []
    values = scores.probabilities[TOXICITY_CATEGORY]
    prompts, samples = values.shape
    shown = min(prompts, max(1, MOST_ROWS // samples))
    return [
        [scores.records[p], scores.subsets[p], scores.keys[p][0], continuation, float(values[p, s])]
        for p in np.linspace(0, prompts - 1, shown).round().astype(int)
        for s, continuation in enumerate(scores.continuations[p])
    ]


def gather_from_wandb(address: str, api: Any = None) -> list[Run]:
    """The runs of a W&B group, without values by prompt: those are in the workspace that they ran in.

    Args:
        address: `entity/project/group`; a group's name may hold slashes.
        api: a `wandb.Api`; None: a new one.

    Raises:
        ValueError: the address is not complete, or the group has no runs.
    """
    entity, _, rest = address.partition("/")
    project, _, group = rest.partition("/")
    if not (entity and project and group):
        raise ValueError(f"report.runs=wandb:{address}: give wandb:entity/project/group")
    if api is None:
        import wandb

        api = wandb.Api()
    found = [run for run in api.runs(f"{entity}/{project}", filters={"group": group}) if run.job_type != "report"]
    if not found:
        raise ValueError(f"report.runs=wandb:{address}: there are no runs in this group")
    return [_run_from_wandb(run) for run in found]


def _run_from_wandb(run: Any) -> Run:
    config, summary = dict(run.config), dict(run.summary)
    hydra = config.pop("hydra", {})
    metrics = unflattened(summary, METRICS)
    problem = f"failed: {summary['failure']}" if "failure" in summary else f"unfinished ({run.state} in W&B)"
    return Run(
        place=run.url,
        overrides=dict(split_override(override) for override in hydra.get("overrides", [])),
        choices=hydra.get("choices", {}),
        config=config,
        metrics=with_nan(metrics) or None,
        problem=None if metrics else problem,
        notes=tuple(summary.get("notes", ())),
        labels={task: dict(words) for task, words in dict(summary.get("labels", {})).items()},
    )


def flattened(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """`{a: {b: 1}}` → `prefix/a/b`, 1; `x_interval: [0, 1]` → `x_low`, 0 and `x_high`, 1, which W&B can draw."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}/{name}")
        elif name.endswith(INTERVAL) and isinstance(value, Sequence):
            for end, number in zip(ENDS, value, strict=True):
                yield f"{prefix}/{name.removesuffix(INTERVAL)}{end}", number
        else:
            yield f"{prefix}/{name}", value


def unflattened(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The inverse of `flattened`; keys of other prefixes are left out."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        first, *path, last = key.split("/") if "/" in key else (key, "")
        if first == prefix:
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[last] = value
    return with_intervals(tree)


def with_intervals(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`x_low` and `x_high` of a metric x → `x_interval`."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        metric = next((name.removesuffix(end) for end in ENDS if name.endswith(end)), name)
        if isinstance(value, Mapping):
            found[name] = with_intervals(value)
        elif metric == name or not {metric, *(f"{metric}{end}" for end in ENDS)} <= tree.keys():
            found[name] = value
        else:
            found[f"{metric}{INTERVAL}"] = [tree[f"{metric}{end}"] for end in ENDS]
    return found
