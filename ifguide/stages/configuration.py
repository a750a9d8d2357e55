"""What a composed configuration names, made; mistakes name the setting as it was typed."""

import copy
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from ifguide.checks import check_whole_number
from ifguide.corpus.queries import first_half
from ifguide.stages.argument_types import mistyped
from ifguide.tracking import WHOLE_RUN, WandbRun
from ifguide.workspace import Workspace, check_launched, forget_ranks

TARGETS = ("ifguide", "pytorch_lightning", "torch.nn", "torch.optim")  # not torch: torch.hub and torch.load run code
# what has no `_target_`, which would refuse what it does not know: node → its settings in conf/config.yaml
SETTINGS = {
    "evaluation": ("dtype", "batch_size", "perplexity_split", "reference_model"), "report": ("runs", "reference", "by"),
    "export": ("unit",), "plan": ("stage", "device", "share", "tokens"), "clean": ("runs", "confirm"),
}  # fmt: skip
TAGS = ("method", "model", "data")  # groups by whose options W&B finds a run
NAMED = ("behaviours", "classifiers", "tasks", "utilities")  # nodes whose keys are names, and parts of files' names


def make(cfg: DictConfig, key: str) -> Any:
    """What the configuration has under a key, with everything in it instantiated.

    Raises:
        ValueError: an argument is wrong; the message begins with the setting as it was typed.
    """
    return made(OmegaConf.select(cfg, key, throw_on_missing=True), key)


def made(node: Any, key: str, **further: Any) -> Any:
    """What a node at a key names, instantiated with further arguments. Of a value of another type it is its class that
    speaks first, which knows the range too.

    Raises:
        ValueError: as `make`.
    """
    wrong = check_calls(node, key)
    try:
        found = instantiate(node, _convert_="all", **further)
    except InstantiationException as error:
        said = mistake(error, key)
        if not wrong or str(said).partition("=")[0] in wrong:
            raise said or error from error
    if wrong:
        raise ValueError(next(iter(wrong.values())))
    return found


def saved(folder: Path) -> Any:
    """The configuration that Hydra keeps in the folder of a run."""
    return OmegaConf.load(folder / ".hydra" / "config.yaml")


def with_first_halves(cfg: DictConfig, behaviours: Iterable[str]) -> DictConfig:
    """The configuration with half of the queries of some behaviours (`ifguide.corpus.queries.halves`)."""
    halved = copy.deepcopy(cfg)
    with open_dict(halved):
        for name in behaviours:
            target = f"{first_half.__module__}.{first_half.__name__}"
            halved.behaviours[name] = {"_target_": target, "queries": halved.behaviours[name]}
    return halved


def choices() -> dict[str, str]:
    """Group → option of this run; where the `config.yaml` of an earlier run is run again, as that one chose."""
    runtime = HydraConfig.get().runtime
    again = (Path(source.path) / "hydra.yaml" for source in runtime.config_sources if source.schema == "file")
    for file in again:
        if file.is_file():
            earlier = OmegaConf.load(file).hydra.runtime.choices
            return dict(earlier) | {group: option for group, option in runtime.choices.items() if option is not None}
    return dict(runtime.choices)


def config_flags() -> list[str]:
    """Of the command line: what another process composes this configuration from, beside overrides."""
    hydra = HydraConfig.get()
    flags = {"main": "--config-path", "command-line": "--config-dir"}
    found = [(flags[one.provider], one.path) for one in hydra.runtime.config_sources if one.provider in flags]
    return [*(part for pair in found for part in pair), "--config-name", str(hydra.job.config_name)]


def as_list(value: Any) -> list[Any]:
    """A setting that may be one value or a list of them."""
    return list(value) if isinstance(value, ListConfig) else [value]


def check_calls(node: Any, place: str) -> dict[str, str]:
    """Raise ValueError unless every `_target_` in a node is one that a configuration may name; more with
    `IFGUIDE_TARGETS=mine,theirs`.

    What it names counts, not how: `ifguide.workspace.files.os.system` is of `posix`.

    Returns:
        Place of each argument that is of another type than its annotation says → what is said of it.
    """
    allowed = [*TARGETS, *filter(None, os.environ.get("IFGUIDE_TARGETS", "").replace(".*", "").split(","))]
    wrong: dict[str, str] = {}
    if not OmegaConf.is_config(node):
        return wrong
    for where, given in calls(OmegaConf.to_container(node, resolve=True), place):
        target = str(given["_target_"])
        modules, found = [target], None
        if within(target, allowed):
            try:
                found = get_object(target)
                modules.append(str(getattr(found, "__module__", "")))
            except Exception:  # Hydra says what is wrong with it
                continue
        if not all(within(module, allowed) for module in modules):
            raise ValueError(
                f"{where}._target_={target}: a configuration may name what is in {', '.join(allowed)}; where you trust "
                f"it, add its package to the environment variable IFGUIDE_TARGETS={target.partition('.')[0]}"
            )
        for name, message in mistyped(found, given).items():
            argument = f"{where}.{name}"
            wrong[argument] = f"{typed(node, argument)}={message}"
    return wrong


def within(name: str, packages: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def typed(node: Any, place: str) -> str:
    """Where the value at a place comes from: `${data.seed}` is typed as `data.seed`.

    Args:
        node: of the configuration that the place is in.
        place: the whole way to it.
    """
    given = OmegaConf.select(node._get_root(), place.rpartition(".")[0])._get_node(place.rpartition(".")[2])
    source = re.fullmatch(r"\$\{(\w[\w.]*)\}", str(given._value()))
    return typed(node, source[1]) if source else place


def calls(value: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, node) of every node with a `_target_` in a value."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield place, value
        for key, child in value.items():
            yield from calls(child, f"{place}.{key}")
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from calls(child, f"{place}.{index}")


def check_names(cfg: DictConfig) -> None:
    """Raise ValueError for a name of a behaviour, task, … that would lead out of a run's folder."""
    for group in NAMED:
        for name in cfg.get(group) or ():
            if not re.fullmatch(r"\w[\w. +-]*", str(name)):
                raise ValueError(f"{group}.{name}: a name has letters, digits, '_', '-', '+', '.' and blanks in it")


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
        if unknown := re.search(r"unexpected keyword argument '(\w+)'", message):
            place += f".{unknown[1]}"
            message = f"there is no such setting; ~{place} takes it out"
        return ValueError(f"{place}: {message}")
    target = re.search(r"target '([^']+)'", str(error))
    begins_with_argument = re.match(r"\w+[=.:]", message) is not None and target is not None
    return type(cause)(f"{place}.{message}" if begins_with_argument else f"{place}: {message}")


def prepare(cfg: DictConfig) -> None:
    """What a configuration says of this machine, put in order before anything is done.

    Paths under the home folder are expanded, and `None` is refused where `null` is meant. A run of one process is the
    first: what a launcher tells it of others is of other runs, or left from an earlier one.

    Raises:
        ValueError: also a name that no file can have, a setting that nothing reads, and processes that nothing has
            started.
    """
    expand_home(cfg)
    for node, known in SETTINGS.items():
        if added := sorted(set(cfg[node]) - set(known)):
            raise ValueError(f"{node}.{added[0]}: there is no such setting; {node} has {', '.join(known)}")
    tried = OmegaConf.select(cfg, "tuning.tried", default={})
    if tried and cfg.tuning.setting not in (None, *tried):
        raise ValueError(f"tuning.setting={cfg.tuning.setting}: {cfg.tuning.key} has {', '.join(tried)}")
    check_names(cfg)
    check_launched(processes(cfg))
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
    """The folder of artifacts; whether it can be written to is asked where something is to be built.

    Raises:
        ValueError: there is none in the configuration.
    """
    if cfg.paths.workspace is None:
        raise ValueError("paths.workspace=None: it is the folder that artifacts are kept in")
    return Workspace(cfg.paths.workspace, verify=cfg.paths.verify)


def open_logger(cfg: DictConfig, name: str) -> Logger:
    """The configured logger; what W&B finds a run by is what it chose, of a report nothing."""
    usual: dict[str, Any] = {}
    if "tags" in cfg.logger:
        chosen = choices() if cfg.stage != "report" else {}
        label = f"{chosen['method']}, seed {cfg.seed}" if "method" in chosen else "report"
        tags = [chosen[group] for group in TAGS if group in chosen]
        usual = {key: value for key, value in (("label", label), ("tags", tags)) if cfg.logger[key] is None}
    logger: Logger = made(cfg.logger, "logger", name=name, **usual)
    return logger


def make_logger(cfg: DictConfig, name: str) -> Logger:
    """The logger of one training, which has the settings of its run."""
    logger = open_logger(cfg, name)
    logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    return logger


def start_tracking(cfg: DictConfig) -> WandbRun | None:
    """The W&B run of this run, started with its settings; None with another logger."""
    logger = open_logger(cfg, WHOLE_RUN)
    if not isinstance(logger, WandbRun):
        return None
    chosen = {"choices": choices(), "overrides": list(HydraConfig.get().overrides.task)}
    logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    logger.log_hyperparams({"hydra": chosen})
    return logger
