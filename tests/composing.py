"""Configurations as Hydra composes them, which takes it half a second.

Each choice of groups is composed once in a process, and begins where one before it began the same; values are set on a
copy, by Hydra's own function.
"""

import contextlib
import functools
import pickle
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, base
from omegaconf.basecontainer import BaseContainer

CONF = Path(__file__).parents[1] / "conf"


def composed(*overrides: str) -> DictConfig:
    """What `compose` gives for overrides as on the command line."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices = [one for one in parsed if _chooses(one)]
    cfg = pickle.loads(_chosen(tuple(one.input_line for one in choices)))
    ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if one not in choices], cfg)
    return cfg


def _chooses(override) -> bool:
    """Whether Hydra composes by it, rather than setting a value."""
    group = (CONF / override.key_or_group).is_dir() and not isinstance(override.value(), dict)
    return group or override.package is not None or override.key_or_group.startswith("hydra")


@functools.cache
def _chosen(choices: tuple[str, ...]) -> bytes:
    with initialize_config_dir(str(CONF), version_base="1.3"), quickly():
        return pickle.dumps(compose("config", overrides=list(choices)))


@contextlib.contextmanager
def quickly():
    """Files are parsed, put in their places and merged once in a process, and a command is not composed once more to
    see whether it sets `hydra.mode`, which is nowhere set."""
    with (
        patch.object(Hydra, "get_mode", lambda *_, **__: None),
        patch.object(ConfigRepository, "load_config", _load_config),
        patch.object(ConfigLoaderImpl, "_load_single_config", _load_single_config),
        patch.object(ConfigLoaderImpl, "_compose_config_from_defaults_list", _merged),
        patch.object(defaults_list, "_create_interpolation_map", _create_interpolation_map),
        patch.object(base, "parse", _parse),
    ):
        yield


_load_original, _place_original = ConfigRepository.load_config, ConfigLoaderImpl._load_single_config
_merge_original = ConfigLoaderImpl._compose_config_from_defaults_list
_map_original, _parse = defaults_list._create_interpolation_map, functools.cache(base.parse)
FILES: dict[tuple, bytes] = {}  # (path, sources, and where it is put) → what was read of it


def _sources(repository) -> tuple[str, ...]:
    return tuple(source.full_path() for source in repository.get_sources())


def _once(key, make):
    if key not in FILES:
        FILES[key] = pickle.dumps(make())
    return pickle.loads(FILES[key])


def _load_config(self, config_path):
    return _once((config_path, _sources(self)), lambda: _load_original(self, config_path))


def _load_single_config(self, default, repo):
    key = (default.config_path, _sources(repo), default.package, default.primary)
    return _once(key, lambda: _place_original(self, default, repo))


def _merged(self, defaults, repo):
    """By Hydra's own function, in the place of a list's beginning what it gave for that beginning before."""
    sources = _sources(repo)
    begins = [tuple((one.config_path, one.package, one.primary) for one in defaults[:n]) for n in range(len(defaults))]
    known = {n: ResultDefault(config_path=key) for n, key in enumerate(begins) if (key, sources, None, False) in FILES}

    def merge(end):
        first = max((n for n in known if n < end), default=0)
        with patch.object(BaseContainer, "_re_parent", lambda _: None):
            cfg = _merge_original(self, [*([known[first]] if first else []), *defaults[first:end]], repo)
        cfg._re_parent()
        return cfg

    if not known:  # the first list in a process: all its beginnings
        for n in range(1, len(defaults)):
            known[n] = ResultDefault(config_path=begins[n])
            FILES[begins[n], sources, None, False] = pickle.dumps(SimpleNamespace(config=merge(n)))
    return merge(len(defaults))


def _create_interpolation_map(overrides, defaults, self_added):
    if any(default.is_interpolation() for default in defaults if not default.is_self()):
        return _map_original(overrides, defaults, self_added)
    return None
