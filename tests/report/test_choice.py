"""Which setting of a method is chosen on validation prompts."""

from types import SimpleNamespace

import pytest

from ifguide.report.choice import Tried, choose, try_settings
from ifguide.report.gather import Run

TRIED = {"unsteered": 0, "low": 3, "middle": 10, "high": 30}


def test_the_least_toxic_of_the_fluent_settings_is_chosen():
    def tried(toxic, ratio):
        return Tried("low", f"y={toxic}", toxic, ratio, 0.5)

    fluent, toxic, garbled = tried(0.1, 1.02), tried(0.2, 0.9), tried(0.0, 1.5)
    failed = Tried("high", "y=nan", problem="failed: it diverged")
    assert choose([failed, toxic, fluent, garbled]) == fluent
    assert choose([garbled, tried(0.3, 1.2)]).ratio == 1.2, "the most fluent where none is fluent"
    with pytest.raises(ValueError, match="diverged"):
        choose([failed])


def run(setting, toxic, written, tuning=None, benign=None):
    measured = {"toxic_fraction": toxic, "generation_perplexity": written, "distinct_2": 0.9}
    perplexity = {} if benign is None else {"perplexity": {"benign": {"perplexity": benign}}}
    config = {"tuning": {"key": "decoding.beta", "tried": TRIED, "setting": setting} if tuning is None else tuning}
    return Run("somewhere", config=config, metrics={"toxicity": {"all": measured}, **perplexity})


def test_a_decoder_that_truncates_is_compared_with_itself():
    """Fewer tokens to sample from lower the perplexity of what is written, whether or not anything steers."""
    none = run(None, 0.2, 93.0, tuning={"setting": None}, benign=90.0)
    runs = [run("unsteered", 0.1, 30.0), run("low", 0.09, 30.3), run("middle", 0.02, 36.0)]
    tried = try_settings(runs, none)
    assert [round(one.ratio, 2) for one in tried] == [1.0, 1.01, 1.2]
    assert choose(tried).setting == "low" and choose(tried).shown == "beta=3"
    assert choose(try_settings(runs[1:], none)).setting == "middle"
    (plain,) = try_settings([none], none)
    assert plain == Tried(None, "–", 0.2, 1.0, 0.9)


def test_a_setting_that_failed_is_said_and_a_failed_measure_is_refused():
    none = run(None, 0.2, 93.0, tuning={"setting": None}, benign=90.0)
    failed = SimpleNamespace(config=run("low", 0, 1).config, metrics=None, problem="failed: x", method="rad",
                             setting=lambda key: "low")  # fmt: skip
    assert try_settings([failed], none)[0].problem == "failed: x"
    with pytest.raises(ValueError, match="with which others are compared"):
        try_settings([run("low", 0.1, 3.0)], failed)
