"""What a composed configuration names, made; mistakes name the setting as it was typed."""

import inspect
import os
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from ifguide.checks import check_whole_number
from ifguide.tracking import WHOLE_RUN, WandbRun
from ifguide.workspace import Workspace, forget_ranks

TARGETS = ("ifguide.*", "pytorch_lightning.*", "torch.optim.*")


def make(cfg: DictConfig, key: str) -> Any:
    """What the configuration has under a key, with everything in it instantiated.

    Raises:
        ValueError: an argument is wrong; the message begins with the setting as it was typed.
    """
    node = OmegaConf.select(cfg, key, throw_on_missing=True)
    try:
        return instantiate(node, _convert_="all", **whitelisted())
    except InstantiationException as error:
        raise mistake(error, key) or error from error


def saved(folder: Path) -> Any:
    """The configuration that Hydra keeps in the folder of a run."""
    return OmegaConf.load(folder / ".hydra" / "config.yaml")


def whitelisted() -> dict[str, Any]:
    """What `_target_` may name, for versions of Hydra that ask; more with `IFGUIDE_TARGETS=mine.*,theirs.*`."""
    if "_execution_whitelist_" not in inspect.signature(instantiate).parameters:
        return {}
    return {"_execution_whitelist_": [*TARGETS, *filter(None, os.environ.get("IFGUIDE_TARGETS", "").split(","))]}


def mistake(error: Exception, key: str) -> ValueError | None:
    """The ValueError or TypeError behind an instantiation's, naming the setting as it was typed."""
    cause: BaseException | None = error
    while isinstance(cause, InstantiationException):
        cause = cause.__cause__
    if not isinstance(cause, ValueError | TypeError):
        return None
    found = re.search(r"full_key: (\S+)", str(error))
    place, message = (found[1] if found else key), str(cause)
    if isinstance(cause, TypeError):
        return ValueError(f"{place}: {message}")
    target = re.search(r"target '([^']+)'", str(error))
    begins_with_argument = re.match(r"\w+[=.:]", message) is not None and target is not None
    return type(cause)(f"{place}.{message}" if begins_with_argument else f"{place}: {message}")


def prepare(cfg: DictConfig) -> None:
    """What a configuration says of this machine, put in order before anything is done.

    Paths under the home folder are expanded, and `None` is refused where `null` is meant. A run of one process is the
    first: what a launcher tells it of others is of other runs, or left from an earlier one.
    """
    expand_home(cfg)
    if processes(cfg) == 1:
        forget_ranks()
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # Lightning read it from the environment when it was imported


def processes(cfg: DictConfig) -> int:
    """How many processes compute this run.

    Raises:
        ValueError: no whole numbers say it.
    """
    for name in ("devices", "num_nodes"):
        check_whole_number(f"trainer.{name}", cfg.trainer[name], least=1)
    return int(cfg.trainer.devices * cfg.trainer.num_nodes)


def expand_home(node: DictConfig | ListConfig) -> None:
    """Replace `~/x` by a path under the home folder, wherever it is a value: no shell expands what is in quotes.

    Raises:
        ValueError: a setting that is the word None or nothing, which YAML and Hydra take for text.
    """
    keys: list[Any] = list(node.keys()) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        if key == "hydra":
            continue  # not ours
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig | ListConfig):
            expand_home(value)
        elif isinstance(value, str) and value.startswith("~/"):
            node[key] = os.path.expanduser(value)
        elif value in ("None", "") and isinstance(node, DictConfig):
            raise ValueError(f"{node._get_full_key(key)}={value}: that is a text; where there is none, write null")


def make_workspace(cfg: DictConfig) -> Workspace:
    """The folder of artifacts.

    Raises:
        ValueError: there is none in the configuration, or it can be no folder that is written to.
    """
    if cfg.paths.workspace is None:
        raise ValueError("paths.workspace=None: it is the folder that artifacts are kept in")
    place = Path(cfg.paths.workspace).absolute()
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"paths.workspace={cfg.paths.workspace}: {existing} is no folder that can be written to")
    return Workspace(cfg.paths.workspace, verify=cfg.paths.verify)


def make_logger(cfg: DictConfig, name: str) -> Logger:
    """The logger of one training, which has the settings of its run."""
    logger: Logger = instantiate(cfg.logger, name=name, **whitelisted())
    logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    return logger


def start_tracking(cfg: DictConfig) -> WandbRun | None:
    """The W&B run of this run, started with its settings; None with another logger."""
    logger = instantiate(cfg.logger, name=WHOLE_RUN, **whitelisted())
    if not isinstance(logger, WandbRun):
        return None
    hydra = HydraConfig.get()
    chosen = {"choices": dict(hydra.runtime.choices), "overrides": list(hydra.overrides.task)}
    logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    logger.log_hyperparams({"hydra": chosen})
    return logger
