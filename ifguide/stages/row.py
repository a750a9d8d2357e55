"""What a run leaves in its folder: `run.json` always; after an evaluation its metrics and token pages."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.masks import MASK_FILE, TokenMask
from ifguide.evaluation.task import METRICS_FILE, with_nan
from ifguide.influence.store import open_scores
from ifguide.report.gather import RUN_FILE
from ifguide.report.token_page import write_token_pages
from ifguide.stages.evaluation import read_metrics
from ifguide.stages.findings import all_warnings
from ifguide.stages.stage import Plan
from ifguide.workspace import Artifact, Workspace, write_json


def write_run(plan: Plan, artifacts: Mapping[str, Artifact], workspace: Workspace, folder: Path) -> None:
    """Write `run.json`: what the row is, and where its artifacts are or will be; what programs read.

    Args:
        plan: of the run; its `row` has name, stage, seed, notes and what is measured.
        artifacts: role → artifact, those that were made.
        workspace: where the others will be.
        folder: of the run.
    """
    notes = [*plan.row["notes"], *all_warnings(artifacts)]
    places = {role: str(stage.place(workspace)) for role, stage in plan.roles.items()}
    write_json(folder / RUN_FILE, {**plan.row, "notes": notes, "artifacts": places})


def write_row(plan: Plan, artifacts: Mapping[str, Artifact], workspace: Workspace, folder: Path) -> dict[str, Any]:
    """Write the metrics of an evaluated run.

    Returns:
        The metrics, the cost among them: seconds of all that the generations were made from and with.
    """
    metrics = with_nan(read_metrics(artifacts["evaluation"].path))
    seconds = workspace.seconds(*(artifacts[role] for role in plan.row["generations"].values()))
    if seconds is not None:
        metrics["cost"] = {"all": {"seconds": seconds}}
    write_json(folder / METRICS_FILE, metrics)
    return metrics


def write_tokens(plan: Plan, artifacts: Mapping[str, Artifact], folder: Path) -> None:
    """Write the token pages of a run that has a mask of its own."""
    corpus = Corpus(artifacts["data"].path)
    scores = artifacts.get("pooled", artifacts["scores"])
    mask = TokenMask.open(artifacts["mask"].path / MASK_FILE, corpus.info["block_length"])
    facts = artifacts["mask"].manifest["facts"]
    names, labels = plan.row["behaviours"], plan.row.get("labels")
    write_token_pages(corpus, names, open_scores(scores.path), mask, facts, folder, labels)


def objective(metrics: Mapping[str, Any], paths: str | Sequence[str]) -> float | list[float] | None:
    """The metric that a sweeper optimises; a list where it optimises several; None, of a failed trial, where one is not
    finite: Optuna would end the search with it.

    Raises:
        ValueError: one was not measured; what was is listed.
    """
    values = [_metric(metrics, path) for path in ([paths] if isinstance(paths, str) else paths)]
    if not all(map(math.isfinite, values)):
        return None
    return values[0] if isinstance(paths, str) else values


def _metric(metrics: Mapping[str, Any], path: str) -> float:
    name, subset, metric = path.split(".", 2)
    found = metrics.get(name, {}).get(subset, {})
    if not isinstance(found.get(metric), int | float):
        known = [key for key, value in found.items() if isinstance(value, int | float)]
        listed = f"metrics of {name}.{subset}: {', '.join(known)}" if known else f"measured: {', '.join(metrics)}"
        raise ValueError(f"objective_metric={path}: it was not measured; {listed}")
    return float(found[metric])
