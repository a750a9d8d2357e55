"""The report of several runs: `stage=report`, and at the end of every sweep."""

import json
import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from ifguide.corpus.sources import by_content
from ifguide.evaluation.generation import GENERATIONS_FILE, load_generations
from ifguide.report.formats import markdown
from ifguide.report.gather import Run, gather
from ifguide.report.judged import with_win_rates
from ifguide.report.rows import compare_rows
from ifguide.report.table import HEADLINE
from ifguide.report.write import write_report
from ifguide.tracking import WHOLE_RUN, WandbRun, finish_tracking, gather_from_wandb
from ifguide.workspace import Artifact, Workspace, global_rank, write_json

log = logging.getLogger(__name__)
WANDB = "wandb:"  # entity/project/group, where a folder could stand
JUDGEMENTS_FILE = "judgements.json"


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
    comparison = compare_rows(runs, reference=settings.reference, by=by)  # type: ignore[arg-type]
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
    places = [run.generations_of(HEADLINE.task) for run in (ours, theirs)]
    first, second = (None if place is None else Artifact.open(place, stage="generations") for place in places)
    if first is None or second is None:
        return None

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
