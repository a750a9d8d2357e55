"""The report of several runs: `stage=report`, and at the end of every sweep."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from ifguide.corpus.sources import by_content
from ifguide.evaluation.generation import GENERATIONS_FILE, load_generations
from ifguide.evaluation.judge import same_in_both_orders, wins
from ifguide.report.formats import markdown
from ifguide.report.gather import Run, gather
from ifguide.report.rows import Comparison, Row, as_pair, compare
from ifguide.report.table import Column, Measurement
from ifguide.report.write import write_report
from ifguide.statistics import hierarchical_interval
from ifguide.tracking import WHOLE_RUN, WandbRun, finish_tracking, gather_from_wandb
from ifguide.workspace import Artifact, Workspace, global_rank, write_json

log = logging.getLogger(__name__)
WANDB = "wandb:"  # entity/project/group, where a folder could stand
JUDGEMENTS_FILE = "judgements.json"
JUDGED = {
    Column("win rate ↑", "judge", "all", "win_rate"): wins,
    Column("judge.all.same_in_both_orders", "judge", "all", "same_in_both_orders"): same_in_both_orders,
}


def report(cfg: DictConfig, directory: Path) -> Path:
    """Write the report of `report.runs` into a directory, print its table, and return the path of its page.

    Raises:
        ValueError: there is nothing to report on, or a setting names what the runs do not have.
    """
    settings = cfg.report
    if not settings.runs:
        raise ValueError("report.runs is not set: give the folder of a sweep or a run, a list of such, or wandb:…")
    places = list(settings.runs) if isinstance(settings.runs, ListConfig) else [settings.runs]
    by = None if settings.by is None else OmegaConf.to_object(settings.by)
    runs = [
        run
        for place in places
        for run in (
            gather_from_wandb(place.removeprefix(WANDB))
            if place.startswith(WANDB)
            else gather([place], workspace=Path(cfg.paths.workspace))
        )
    ]
    comparison = compare(runs, reference=settings.reference, by=by)  # type: ignore[arg-type]
    if cfg.judge:
        comparison = with_win_rates(comparison, lambda ours, theirs: judgements(cfg, ours, theirs))
    title = f"IF-Guide: {', '.join('/'.join(Path(place).parts[-2:]) for place in places)}"
    page = write_report(comparison, directory, title=title)
    logger = instantiate(cfg.logger, name=WHOLE_RUN)
    if isinstance(logger, WandbRun):
        logger.log_hyperparams(OmegaConf.to_container(cfg.report))
        logger.log_comparison(comparison, directory)
    print(f"\n{markdown(comparison)}\n{'report:':24} {page}")
    return page


def judgements(cfg: DictConfig, ours: Run, theirs: Run) -> list[dict[str, Any]] | None:
    """What the judge says of two runs' generations, asked now or found in the workspace; None where these are gone."""
    if not all("generations" in run.artifacts for run in (ours, theirs)):
        return None
    first, second = (Artifact.open(run.artifacts["generations"], stage="generations") for run in (ours, theirs))

    def build(directory: Path) -> None:
        rows = [load_generations(made.path / GENERATIONS_FILE) for made in (first, second)]
        asked = instantiate(cfg.judge)(*rows, instantiate(cfg.trainer).device)
        write_json(directory / JUDGEMENTS_FILE, asked)

    values: Any = OmegaConf.to_container(cfg.judge, resolve=True)
    made = Workspace(cfg.paths.workspace, verify=cfg.paths.verify).build(
        "judgements",
        version=1,
        settings=by_content({key: value for key, value in values.items() if key != "batch_size"}),
        inputs={"first": first, "second": second},
        builder=build,
    )
    return json.loads((made.path / JUDGEMENTS_FILE).read_text(encoding="utf-8"))


def with_win_rates(comparison: Comparison, judge: Callable[[Run, Run], list[dict[str, Any]] | None]) -> Comparison:
    """The comparison, with how often each row wins against its reference: a mean over seeds and prompts.

    Raises:
        ValueError: there is no reference.
    """
    if comparison.reference is None:
        raise ValueError("judge: win rates are against a reference; name a row in report.reference")
    rows = {row.name: row for row in comparison.measured}
    judged = tuple(
        row if row.reference not in rows else with_win_rate(row, rows[row.reference], judge) for row in comparison.rows
    )
    first, *others = JUDGED
    return replace(
        comparison,
        rows=judged,
        columns=(*comparison.columns, first),
        every_column=(*comparison.every_column, first, *others),
    )


def with_win_rate(row: Row, reference: Row, judge: Callable[[Run, Run], list[dict[str, Any]] | None]) -> Row:
    theirs = {run.seed: run for run in reference.runs}
    asked = [judge(run, theirs[run.seed]) for run in row.runs if run.seed in theirs]
    found = [rows for rows in asked if rows is not None]
    if not found or len(found) < len(asked):
        return replace(row, notes=(*row.notes, "no win rate: no generations of the same seeds in the workspace"))
    cells = dict(row.cells)
    for column, measure in JUDGED.items():
        values: list[dict[tuple[str, str], float]] = []
        for rows in found:
            by_prompt: dict[tuple[str, str], list[float]] = {}
            for judged, value in zip(rows, measure(np.array([one["log_odds"] for one in rows])), strict=True):
                by_prompt.setdefault((judged["record"], judged["prompt"]), []).append(float(value))
            values.append({key: float(np.mean(samples)) for key, samples in by_prompt.items()})
        shared = [key for key in values[0] if all(key in seed for seed in values)]
        values_SP = np.array([[seed[key] for key in shared] for seed in values])
        cells[column] = Measurement(float(values_SP.mean()), as_pair(hierarchical_interval(values_SP)))
    return replace(row, cells=cells, notes=(*row.notes, f"win rate against {reference.name}, by the judge"))


class SweepReport(Callback):
    """Writes the report of a sweep into its folder when its last job has ended.

    The results are on disk by then: whatever goes wrong here is said, and hides nothing.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if global_rank() > 0 or config.stage != "evaluate":
            return
        folder = Path(config.hydra.sweep.dir).absolute()
        try:
            with open_dict(config):
                config.hydra.runtime.output_dir = str(folder)
                config.stage, config.report.runs = "report", str(folder)
                if "tags" in config.logger:
                    config.logger.label, config.logger.tags = "report", []  # it is of no one method
            HydraConfig.instance().set_config(config)
            report(config, folder)
            finish_tracking()
        except Exception as error:
            log.warning("no report of %s: %s; try again with stage=report report.runs=%s", folder, error, folder)
