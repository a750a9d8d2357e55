"""Configurations as Hydra composes them, which takes it half a second.

Each choice of groups is composed once in a process; values are set on a copy, by Hydra's own function.
"""

import copy
import functools
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

CONF = Path(__file__).parents[1] / "conf"


def composed(*overrides: str) -> DictConfig:
    """What `compose` gives for overrides as on the command line."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices = [one for one in parsed if _chooses(one)]
    cfg = copy.deepcopy(_chosen(tuple(one.input_line for one in choices)))
    ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if one not in choices], cfg)
    return cfg


def _chooses(override) -> bool:
    """Whether Hydra composes by it, rather than setting a value."""
    group = (CONF / override.key_or_group).is_dir() and not isinstance(override.value(), dict)
    return group or override.package is not None or override.key_or_group.startswith("hydra")


@functools.cache
def _chosen(choices: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(choices))
