"""What `stage` asks for, done: a build, the report of several runs, the plan of one, and what none needs any more."""

import logging
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ifguide.checks import argument
from ifguide.cost.devices import Device, ThisMachine, named_device
from ifguide.evaluation.task import METRICS_FILE
from ifguide.report.gather import FAILURE_FILE, RUN_FILE, Run, gather
from ifguide.report.judged import with_win_rates
from ifguide.report.rows import compare_rows
from ifguide.report.terminal import relative, summary
from ifguide.report.write import write_report
from ifguide.stages import listing
from ifguide.stages.configuration import as_list, expand_home, make, make_workspace, processes, start_tracking
from ifguide.stages.costing import cost_of
from ifguide.stages.generation import Generations
from ifguide.stages.judging import Judgements, read_judgements
from ifguide.stages.plan import make_plan
from ifguide.stages.row import objective, write_row, write_run, write_tokens
from ifguide.stages.run import carry_out
from ifguide.stages.stage import Existing, Plan
from ifguide.stages.streams import check_folder
from ifguide.tracking import finish_tracking, gather_from_wandb
from ifguide.workspace import Artifact, as_override, global_rank, write_json

log = logging.getLogger(__name__)
USUAL_RUNS = ("outputs", "multirun")  # where Hydra puts runs and sweeps
WANDB = "wandb:"  # entity/project/group, where a folder could stand
REPORTED = ("judge", "report", "paths", "trainer", "logger")  # groups and settings that a report depends on
failures: list[str] = []  # of this process, which then ends with 1


def forget(cfg: DictConfig, folder: Path, since: float) -> None:
    """Remove how an attempt ended before a time that is repeated in its folder, perhaps otherwise."""
    is_first = processes(cfg) == 1 or global_rank() == 0
    for name in (METRICS_FILE, FAILURE_FILE) if is_first and cfg.stage not in COMMANDS else ():
        if not is_newer(folder / name, since):
            (folder / name).unlink(missing_ok=True)


def record(folder: Path, error: str, message: str, since: float) -> None:
    """Leave in the run's folder, and in W&B, why it ended; on a full disk that is only printed. Where another process
    of the run has ended since a time, this one ended with it."""
    with suppress(OSError):
        if not is_newer(folder / FAILURE_FILE, since):
            write_json(folder / FAILURE_FILE, {"error": error, "message": message})
    with suppress(OSError):
        finish_tracking(failure=message)


def is_newer(file: Path, since: float) -> bool:
    """Whether a file is there that was written after a time."""
    return file.exists() and file.stat().st_mtime >= since


def build(cfg: DictConfig, folder: Path) -> float | list[float] | None:
    """Build what `stage` asks for; an evaluation ends in metrics and a report of the row, and returns its objective."""
    plan, workspace, first = make_plan(cfg), make_workspace(cfg), global_rank() == 0
    check_judge(cfg, plan)
    tracked = start_tracking(cfg)
    artifacts: dict[str, Artifact] = {}
    if first:  # while it goes on, too, `stage=clean` knows what it needs
        write_run(plan, artifacts, workspace, folder)
    carry_out(plan, workspace, artifacts, processes=processes(cfg))
    if first:
        write_run(plan, artifacts, workspace, folder)
    if first and "behaviours" in plan.row:
        write_tokens(plan, artifacts, folder)
    if not first or cfg.stage != "evaluate":
        return None
    metrics = write_row(plan, artifacts, workspace, folder)
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        report(cfg, folder, [str(folder)])
    if tracked is not None:
        tracked.log_run(folder)
    return objective(metrics, plan.row["objective"])


def report(cfg: DictConfig, folder: Path, places: Sequence[str] | None = None) -> None:
    """Write the report of `report.runs`, or of other places, into a folder, and print its table.

    Raises:
        ValueError: there is nothing to report on, or a setting names what the runs do not have.
    """
    settings = cfg.report
    if places is None and not settings.runs:
        raise ValueError("report.runs is not set: give the folder of a sweep or a run, a list of such, or wandb:…")
    places = as_list(settings.runs) if places is None else places
    by = None if settings.by is None else as_list(settings.by)
    runs: list[Run] = []
    workspace = Path(cfg.paths.workspace)
    for place in places:
        if place.startswith(WANDB):
            runs += gather_from_wandb(place.removeprefix(WANDB))
        else:
            runs += gather([place], workspace=workspace)
    comparison = compare_rows(runs, reference=settings.reference, by=by)
    if cfg.judge and len(runs) > 1:
        comparison = with_win_rates(comparison, lambda ours, theirs: judged(cfg, ours, theirs))
    title = f"IF-Guide: {', '.join('/'.join(Path(place).parts[-2:]) for place in places)}"
    page = write_report(comparison, folder, title=title)
    tracked = start_tracking(cfg) if cfg.stage == "report" else None
    if tracked is not None:
        tracked.log_comparison(comparison, folder)
    log.info("\n%s\nreport: %s", summary(comparison), relative(page))


def check_judge(cfg: DictConfig, plan: Plan) -> None:
    """Raise ValueError where the judge of the report could not read what will be written."""
    judge = make(cfg, "judge")
    for role, generated in plan.named(Generations).items() if judge else ():
        with argument("judge"):
            if judge.samples > generated.task.samples:
                raise ValueError(
                    f"samples={judge.samples}: tasks.{role.partition('.')[2]}.samples is {generated.task.samples}"
                )
            judge.check([prompt.text for prompt in generated.task.prompts], generated.task.max_new_tokens)


def judged(cfg: DictConfig, ours: Run, theirs: Run) -> list[dict[str, Any]] | None:
    """What the judge says of two runs' generations, asked now or found in the workspace; None where these are gone."""
    folders = [run.generations_of(next(iter(run.generations), "")) for run in (ours, theirs)]
    first, second = (None if folder is None else Existing(folder=folder, stage="generations") for folder in folders)
    if first is None or second is None:
        return None
    stage = Judgements(first=first, second=second, judge=make(cfg, "judge"), trainer=make(cfg, "trainer"))
    workspace = make_workspace(cfg)
    inputs: dict[str, Artifact] = {name: one.make(workspace, {}) for name, one in stage.inputs.items()}
    return read_judgements(stage.make(workspace, inputs).path)


def show_plan(cfg: DictConfig, folder: Path) -> None:
    """What would be built or found for `plan.stage`, and what it would cost."""
    settings = cfg.plan
    given, usual = (
        dict(listing.flattened(OmegaConf.to_container(one, resolve=True))) for one in (cfg, compose("config"))
    )
    if settings.device is not None:  # it need not be here
        device: Device = named_device(settings.device, settings.share)
        cfg.trainer.accelerator = "cpu"
        if cfg.trainer.precision in ("auto", "16-mixed", "16-true"):  # what it computes there, and as fast
            cfg.trainer.precision = "bf16-true" if cfg.trainer.precision == "16-true" else "bf16-mixed"
    else:
        device = ThisMachine(make(cfg, "trainer").device)
    plan, workspace = make_plan(cfg, settings.stage), make_workspace(cfg)
    held = processes(cfg)
    cost = cost_of(plan, workspace, device, devices=held, tokens=settings.tokens, is_here=settings.device is None)
    log.info(listing.plan_table(plan, workspace, given, usual, cost))


def clean(cfg: DictConfig, folder: Path) -> None:
    """What no run under `clean.runs` needs, removed with `clean.confirm`."""
    usual = [place for place in map(Path, USUAL_RUNS) if any(place.rglob(RUN_FILE))]
    runs = usual if cfg.clean.runs is None else [Path(run) for run in as_list(cfg.clean.runs)]
    if not runs:
        raise ValueError(f"clean.runs: no run in {' or '.join(USUAL_RUNS)}; name the folders of your runs")
    log.info(listing.clean(make_workspace(cfg).root, runs, confirm=cfg.clean.confirm))


COMMANDS = {"report": report, "plan": show_plan, "clean": clean}


class RunFolder(Callback):
    """Before Hydra makes the folder of a run or of a sweep: whether it can, in one line instead of a traceback."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        check_folder("hydra.run.dir", Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        check_folder("hydra.sweep.dir", Path(config.hydra.sweep.dir))


class SweepReport(Callback):
    """Writes the report of a sweep into its folder when its last job has ended.

    The results are on disk by then: whatever goes wrong here is said, ends the program with 1, and hides nothing.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        if config.stage not in COMMANDS:  # rows that a launcher ran in processes of their own failed there
            failures.extend(str(file) for file in folder.glob(f"*/{FAILURE_FILE}"))
        if global_rank() > 0 or config.stage != "evaluate":
            return
        try:
            with open_dict(config):
                config.hydra.runtime.output_dir = str(folder)
                config.stage = "report"
            HydraConfig.instance().set_config(config)
            expand_home(config)
            report(config, folder, [str(folder)])
            finish_tracking()
        except Exception as error:
            finish_tracking(failure=str(error))
            failures.append(f"report of {folder}")
            again = report_command(folder, list(config.hydra.overrides.task))
            log.warning("error: no report of %s: %s\nits runs are complete; try again with: %s", folder, error, again)


def report_command(folder: Path, overrides: Sequence[str]) -> str:
    """The command that makes a sweep's report again, with the sweep's settings that it depends on."""
    kept = [one for one in overrides if re.split("[./@=]", one.lstrip("+~"))[0] in REPORTED]
    place = relative(folder)
    typed = place if re.fullmatch(r"[\w./-]+", place) else as_override(place)
    return shlex.join(["python", "run.py", "stage=report", f"report.runs={typed}", *kept])
