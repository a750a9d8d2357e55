"""What a configuration gives an argument is of the argument's type, or a line says how the user typed it."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, nan
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from composing import CONF, composed
from hydra.utils import get_object

from ifguide.models import ModelSettings
from ifguide.stages.argument_types import fits, mistyped
from ifguide.stages.configuration import calls, make

MADE = {"_target_": "ifguide.models.ModelSettings"}
TYPES = {
    "bool": (bool, [True, False], ["no", 1, None]),
    "int": (int, [3], [3.0, True, "3", None]),
    "float": (float, [3, 0.5, inf], [nan, True, "0.9", None]),
    "str": (str, ["a", 1984], [None, ["a"], {}, MADE]),
    "path": (Path, ["a"], [None, ["a"]]),
    "optional": (float | None, [None, {}, 1], ["hot", nan]),
    "literal": (Literal["a", "b"], ["a"], ["c", None]),
    "sequence": (Sequence[str], [[], ["a", "b"], MADE], ["toxic", None, [None], {"a": "b"}]),
    "numbers": (Sequence[int], [[1, 2]], [[1.5], 5]),
    "iterable": (Iterable[ModelSettings], [MADE, [MADE]], ["a", None, [1]]),
    "mapping": (Mapping[str, int], [{"a": 1}], [{"a": None}, [1], None]),
    "class": (ModelSettings, [MADE], [None, "abc", 1, [MADE], {"path": None}]),
    "any": (Any, [None, 1, "a"], []),
}


@pytest.mark.parametrize("name", TYPES)
def test_a_value_is_of_a_type(name):
    hint, good, bad = TYPES[name]
    assert all(fits(value, hint) for value in good)
    assert not any(fits(value, hint) for value in bad)


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_the_arguments_of_every_option_are_of_their_types(file):
    for place, node in calls(yaml.safe_load(file.read_text(encoding="utf-8")), file.stem):
        target, merged = str(node["_target_"]), {"optim"}  # of a default, which a file adds to
        if target.startswith("ifguide."):
            plain = {name: value for name, value in node.items() if "${" not in str(value) and name not in merged}
            assert not mistyped(get_object(target), plain), place


@pytest.mark.parametrize(
    "overrides, message",
    [
        ("method=attribute_control post_training.frozen_teacher=no", "it is true or false"),
        ("method=attribute_control post_training.parallel=null", "it is true or false"),
        ("method=attribute_control post_training.labels=toxic", r"it is a list, as in \[a,b\] or null"),
        ("method=attribute_control post_training.guidance=null", "it is made of settings, with a _target_"),
        ("method=attribute_control post_training.guidance.sampling=null", "it is made of settings, with a _target_"),
        ("method=rl post_training.estimator=null", "it is made of settings, with a _target_"),
        ("method=rl post_training.estimator.epsilon=null", "it is a number"),
        ("method=rl post_training.logit_limit=0", "it is a finite number above 0"),
        ("method=nado decoding.guidance.relative=maybe", "it is true or false"),
        ("method=nado decoding.guidance.classifier=null", "it is made of settings, with a _target_"),
        ("method=nado decoding.alpha=1e39", "it is a finite number, 0 or more"),
        ("method=steering decoding.vector=null", "it is made of settings, with a _target_"),
        ("method=steering decoding.alpha=str", "it is a finite number"),
        ("method=steering decoding.alpha=1e300", "it is a finite number"),
        ("decoding.temperature=hot", "it is a finite number above 0"),
        ("decoding.temperature=nan", "it is a finite number above 0"),
        ("decoding.temperature=inf", "it is a finite number above 0"),
        ("decoding.top_p='\"0.9\"'", "it is a number"),
        ("decoding=dexperts decoding.alpha=nan", "it is a finite number, 0 or more"),
        ("decoding=dexperts decoding.alpha=1e300", "it is a finite number, 0 or more"),
        ("decoding=rad decoding.beta=inf", "it is a finite number, 0 or more"),
        ("method=simnpo objective.beta=inf", "a number above 0"),
        ("method=simnpo objective.reference=-inf", "a log-probability is a number, 0 at most"),
        ("method=simnpo objective.beta=null", "it is a number"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_as_it_was_typed(overrides, message):
    *_, given = names = overrides.split()
    setting, _, value = given.partition("=")
    value = value.strip("'").replace("1e39", "1e\\+39").replace("1e300", "1e\\+300")
    with pytest.raises(ValueError, match=f"^{setting}={value}: {message}"):
        make(composed(*names), setting.partition(".")[0])


@pytest.mark.parametrize(
    "given, message",
    [("steps=5", "a list"), ("learning_rate=0", "above 0"), ("block_length=1", "2 or more"), ("task=null", "made")],
)
def test_what_a_utility_is_given_too(given, message):
    place = "utilities.relearning"
    with pytest.raises(ValueError, match=f"^{place}.{given}: .*{message}"):
        make(composed("+utility@utilities.relearning=relearning", f"{place}.{given}"), place)
