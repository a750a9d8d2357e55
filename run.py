"""The only entry point: compose the configuration, hand it over, print and record what came out."""

import logging
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers.utils.logging import disable_progress_bar

from ifguide.pipeline import Pipeline
from ifguide.pipeline.report import report
from ifguide.results import write_results
from ifguide.tracking import finish_tracking
from ifguide.workspace import global_rank, write_json

# A reference row shares everything with a run except what a method decides, and what watches the run's own model.
METHOD_GROUPS = ("method", "objective", "filter", "post_training", "decoding", "callbacks")
OUTCOMES = ("metrics.json", "failure.json")  # those of an attempt that is repeated in its folder, perhaps otherwise
failures: list[str] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries' own calls to each other
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.utils.data|kronfluence")
    disable_progress_bar()  # "Loading weights", for every stage
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    try:
        if runs_alone(cfg):
            for name in OUTCOMES if global_rank() == 0 and cfg.stage != "report" else ():
                (Path(cfg.paths.run) / name).unlink(missing_ok=True)
            run(cfg)
            finish_tracking()
    except Exception as error:
        cause = mistake_of(error)
        message = (str(cause or error).splitlines() or [type(error).__name__])[0]
        failures.append(message)
        write_json(Path(cfg.paths.run) / "failure.json", {"error": type(cause or error).__name__, "message": message})
        finish_tracking(failure=message)
        if cause is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                raise
            traceback.print_exc()  # the sweep's other rows, and its report, go on
        print(f"error: {message}", file=sys.stderr)


def run(cfg: DictConfig) -> None:
    """Build what `stage` asks for; after an evaluation, write the row, its comparison and its pages."""
    if cfg.stage == "report":
        report(cfg, Path(cfg.paths.run))
        return
    pipeline = Pipeline(cfg)
    tracked = pipeline.track()
    if tracked is not None:
        hydra_cfg = HydraConfig.get()
        chosen_here = {"choices": dict(hydra_cfg.runtime.choices), "overrides": list(hydra_cfg.overrides.task)}
        tracked.log_hyperparams({"hydra": chosen_here})
    reference = None
    if cfg.stage == "evaluate" and cfg.compare_with not in (None, chosen("method")):
        composed = compose_reference(cfg.compare_with)
        reference = Pipeline(composed["config"])
        if global_rank() == 0:
            open_folder(Path(composed["config"].paths.run), composed)
    artifact = pipeline.stage(cfg.stage)
    if cfg.stage != "evaluate":
        print(artifact.path)
        return
    if reference is not None:
        reference.evaluation()
    if global_rank() == 0:
        write_results(pipeline, reference, Path(cfg.paths.run), name=chosen("method"), reference_name=cfg.compare_with)
        if tracked is not None:
            tracked.log_run(Path(cfg.paths.run))


def compose_reference(method: str) -> dict[str, Any]:
    """The same configuration with another method, without what the command line says of a method's own groups.

    Where the reference takes the same option of such a group, as of `decoding`, settings within it are kept; those of
    the objective never are, because two methods may be one objective with different settings.

    Returns:
        What Hydra records of a run: `config`, `overrides` and `hydra`.

    Raises:
        ValueError: there is no such method.
    """
    known = GlobalHydra.instance().config_loader().get_group_options("method")
    if method not in known:
        raise ValueError(f"compare_with={method}; known: {', '.join(known)}, or null for no comparison")
    overrides = {False: [f"method={method}"], True: []}
    for override in HydraConfig.get().overrides.task:
        overrides[_group(override) in METHOD_GROUPS].append(override)
    choices = compose("config", overrides=overrides[False], return_hydra_config=True).hydra.runtime.choices
    within = [o for o in overrides[True] if "." in o.split("=")[0] and _group(o) != "objective"]
    same = [o for o in within if choices[_group(o)] == chosen(_group(o))]
    kept = [*overrides[False], *same]
    cfg = compose("config", overrides=kept)
    cfg.paths.run = str(Path(cfg.paths.run) / method)  # its training curves stand beside this run's
    runtime = {"choices": choices, "cwd": HydraConfig.get().runtime.cwd}
    return {"config": cfg, "overrides": kept, "hydra": {"hydra": {"runtime": runtime}}}


def open_folder(folder: Path, composed: dict[str, Any]) -> None:
    """Record a row as Hydra records any other run, and remove what an earlier attempt measured."""
    (folder / OUTCOMES[0]).unlink(missing_ok=True)
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    for name, content in composed.items():
        OmegaConf.save(OmegaConf.create(content), folder / ".hydra" / f"{name}.yaml")


def _group(override: str) -> str:
    return override.lstrip("+~").split("=")[0].split("@")[-1].split(".")[0]


def chosen(group: str) -> str:
    return HydraConfig.get().runtime.choices[group]


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


def mistake_of(error: BaseException | None) -> Exception | None:
    """The exception behind an exception, where a user's mistake caused it; one about a type names its setting."""
    cause = error
    while isinstance(cause, InstantiationException):
        error, cause = cause, cause.__cause__
    if isinstance(cause, TypeError) and cause is not error:
        return TypeError(f"{str(error).partition('full_key: ')[2] or 'a setting'}: {cause}")
    return cause if isinstance(cause, ValueError | OmegaConfBaseException) else None


if __name__ == "__main__":
    main()
    sys.exit(1 if failures else 0)
