"""IF-Guide: language models that do not learn an unwanted behaviour in the first place."""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ifguide.api import (
        export,
        fit_curvature,
        make_blocks,
        make_direction,
        masked_dataset,
        pool,
        score,
        select,
    )
    from ifguide.corpus import masks
    from ifguide.influence import store as scores
    from ifguide.influence.chain import InfluenceSettings
    from ifguide.influence.conjugate_gradients import ConjugateGradients
    from ifguide.influence.curvature import Curvature
    from ifguide.influence.pooling import TypePooling, WordPooling
    from ifguide.influence.scorers import JVP, FiniteDifference
    from ifguide.influence.selection import Algorithm1
    from ifguide.objectives import SuppressedLanguageModeling
    from ifguide.training.masked import MaskedCollator, MaskedLoss

__version__ = "0.1.0"
__all__ = [
    "JVP", "Algorithm1", "ConjugateGradients", "Curvature", "FiniteDifference", "InfluenceSettings", "MaskedCollator",
    "MaskedLoss", "SuppressedLanguageModeling", "TypePooling", "WordPooling", "export", "fit_curvature", "make_blocks",
    "make_direction", "masked_dataset", "masks", "pool", "score", "scores", "select",
]  # fmt: skip

_API = ("export", "fit_curvature", "make_blocks", "make_direction", "masked_dataset", "pool", "score", "select")
_FROM = {
    **dict.fromkeys(_API, "api"),
    "InfluenceSettings": "influence.chain",
    "ConjugateGradients": "influence.conjugate_gradients",
    "Curvature": "influence.curvature",
    "TypePooling": "influence.pooling",
    "WordPooling": "influence.pooling",
    "JVP": "influence.scorers",
    "FiniteDifference": "influence.scorers",
    "Algorithm1": "influence.selection",
    "SuppressedLanguageModeling": "objectives",
    "MaskedCollator": "training.masked",
    "MaskedLoss": "training.masked",
}
_MODULES = {"masks": "corpus.masks", "scores": "influence.store"}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import ifguide` alone takes no time."""
    if name in _MODULES:
        return import_module(f"ifguide.{_MODULES[name]}")
    if name in _FROM:
        return getattr(import_module(f"ifguide.{_FROM[name]}"), name)
    raise AttributeError(f"module 'ifguide' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# A notebook hands its backend on to what it starts; where that is not installed, matplotlib cannot be imported at all.
_module, _, _backend = os.environ.get("MPLBACKEND", "").partition("://")
if _module == "module" and find_spec(_backend.partition(".")[0]) is None:
    del os.environ["MPLBACKEND"]
