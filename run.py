"""The entry point: compose the configuration, plan, run, say what came out."""

import gc
import logging
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from transformers.utils.logging import disable_progress_bar

from ifguide.signals import listening, run_through, stopped
from ifguide.stages.commands import COMMANDS, build, failures, forget, record
from ifguide.stages.configuration import config_flags, prepare, processes
from ifguide.stages.streams import make_lenient
from ifguide.tracking import finish_tracking
from ifguide.workspace import as_override, global_rank, unranked

SAID_IN_A_LINE = (ValueError, OmegaConfBaseException, OSError)  # a user's mistake, or what the machine refuses


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | list[float] | None:
    """Do what `stage` asks for; returns the metric that a sweeper optimises (`objective_metric`)."""
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries' own calls to each other
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.utils.data|kronfluence")
    disable_progress_bar()  # "Loading weights", for every stage
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    folder, started = Path(HydraConfig.get().runtime.output_dir), time.time()
    try:
        forget(cfg, folder, started)
        prepare(cfg)
        if not runs_alone(cfg):
            return None
        value = COMMANDS.get(cfg.stage, build)(cfg, folder)
        finish_tracking()
        return value
    except BaseException as error:
        if stopped() or not isinstance(error, Exception):  # what a signal breaks off may raise anything
            reason = f"stopped by {stopped()}" if stopped() else f"{type(error).__name__}: {error}"
            record(folder, "Stopped", reason, started)
            raise (KeyboardInterrupt if isinstance(error, Exception) else error) from None
        message = (str(error).splitlines() or [type(error).__name__])[0]
        failures.append(message)
        record(folder, type(error).__name__, message, started)
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not isinstance(error, SAID_IN_A_LINE):
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                raise
            traceback.print_exc()  # the sweep's other rows, and its report, go on
        print(f"error: {message}", file=sys.stderr)
        return None


def runs_alone(cfg: DictConfig) -> bool:
    """Whether this process is to do the work itself. A sweep's row that needs several is run in one of its own, because
    their launcher repeats the command line."""
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode != RunMode.MULTIRUN or processes(cfg) == 1 or global_rank() > 0:
        return True
    place = as_override(hydra_cfg.runtime.output_dir)
    command = [sys.executable, __file__, *config_flags(), *hydra_cfg.overrides.task, f"hydra.run.dir={place}"]
    if run_through(command, env=unranked()):
        failures.append(" ".join(command))
    return False


if __name__ == "__main__":
    gc.freeze()  # what is imported stays: collecting garbage, which kronfluence does after each step, passes over it
    make_lenient()
    with listening():
        main()
    sys.exit(1 if failures else 0)
