"""The entry point: compose the configuration, plan, run, say what came out."""

import logging
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers.utils.logging import disable_progress_bar

from ifguide.stages.commands import COMMANDS, report
from ifguide.stages.configuration import make_workspace, start_tracking
from ifguide.stages.plan import make_plan
from ifguide.stages.row import FAILURE_FILE, METRICS_FILE, write_row, write_run
from ifguide.stages.run import carry_out
from ifguide.tracking import finish_tracking
from ifguide.workspace import Artifact, global_rank, write_json

failures: list[str] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Do what `stage` asks for; returns the metric that a sweeper optimises (`objective_metric`)."""
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries' own calls to each other
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.utils.data|kronfluence")
    disable_progress_bar()  # "Loading weights", for every stage
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        if not runs_alone(cfg):
            return None
        metrics = COMMANDS.get(cfg.stage, run_stage)(cfg, folder)
        finish_tracking()
        return metrics and OmegaConf.select(OmegaConf.create(metrics), cfg.objective_metric)
    except Exception as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        failures.append(message)
        write_json(folder / FAILURE_FILE, {"error": type(error).__name__, "message": message})
        finish_tracking(failure=message)
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not isinstance(error, ValueError | OmegaConfBaseException):
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                raise
            traceback.print_exc()  # the sweep's other rows, and its report, go on
        print(f"error: {message}", file=sys.stderr)
        return None


def run_stage(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Build what `stage` asks for; an evaluation ends in metrics, which are returned, and a report of the row."""
    plan, workspace, first = make_plan(cfg), make_workspace(cfg), global_rank() == 0
    for name in (METRICS_FILE, FAILURE_FILE) if first else ():
        (folder / name).unlink(missing_ok=True)  # of an attempt that is repeated in its folder, perhaps otherwise
    tracked = start_tracking(cfg)
    artifacts: dict[str, Artifact] = {}
    try:
        carry_out(plan, workspace, artifacts)
    finally:
        if first:
            write_run(plan.row, artifacts, folder)
    if not first or cfg.stage != "evaluate":
        return {}
    metrics = write_row(plan, artifacts, workspace, folder)
    if tracked is not None:
        tracked.log_run(folder)
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        report(cfg, folder, [str(folder)])
    return metrics


def runs_alone(cfg: DictConfig) -> bool:
    """Start a sweep's row in its own process where it needs several, because their launcher repeats the command line.

    Returns:
        True where this process is to do the work itself.
    """
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode != RunMode.MULTIRUN or cfg.trainer.devices * cfg.trainer.num_nodes == 1 or global_rank() > 0:
        return True
    command = [sys.executable, __file__, *hydra_cfg.overrides.task, f"hydra.run.dir={hydra_cfg.runtime.output_dir}"]
    if subprocess.run(command, check=False).returncode:
        failures.append(" ".join(command))
    return False


if __name__ == "__main__":
    main()
    sys.exit(1 if failures else 0)
