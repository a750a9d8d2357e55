"""Configurations as Hydra composes them, which takes it half a second.

Each choice of groups is composed once in a process, and each file read once; values are set on a copy, by Hydra's own
function.
"""

import contextlib
import copy
import functools
import pickle
from pathlib import Path
from unittest.mock import patch

from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
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
    with initialize_config_dir(str(CONF), version_base="1.3"), quickly():
        return compose("config", overrides=list(choices))


@contextlib.contextmanager
def quickly():
    """Files are parsed once in a process, interpolated defaults resolved only in lists that have some, and a command is
    not composed once more to see whether it sets `hydra.mode`, which is nowhere set."""
    with (
        patch.object(Hydra, "get_mode", lambda *_, **__: None),
        patch.object(ConfigRepository, "load_config", _load_config),
        patch.object(defaults_list, "_create_interpolation_map", _create_interpolation_map),
    ):
        yield


_load_original, _map_original = ConfigRepository.load_config, defaults_list._create_interpolation_map
FILES: dict[tuple[str, ...], bytes] = {}  # (path, sources) → what was read of it


def _load_config(self, config_path):
    key = (config_path, *(source.full_path() for source in self.sources))
    if key not in FILES:
        FILES[key] = pickle.dumps(_load_original(self, config_path))
    return pickle.loads(FILES[key])


def _create_interpolation_map(overrides, defaults, self_added):
    if any(default.is_interpolation() for default in defaults if not default.is_self()):
        return _map_original(overrides, defaults, self_added)
    return None
