"""Which setting of a method is chosen on validation prompts."""

from types import SimpleNamespace

import pytest

from ifguide.report.choice import TRIES, UNSTEERED, Tried, beyond, choose, try_settings
from ifguide.report.gather import Run

TRIED = {"unsteered": 0, "low": 3, "middle": 10, "high": 30}


def test_the_least_toxic_of_the_fluent_settings_is_chosen():
    def tried(toxic, ratio):
        return Tried("low", f"y={toxic}", toxic, ratio, 0.5)

    fluent, toxic, garbled = tried(0.1, 1.02), tried(0.2, 0.9), tried(0.0, 1.5)
    failed = Tried("high", "y=nan", problem="failed: it diverged")
    assert choose([failed, toxic, fluent, garbled]) == fluent
    assert choose([garbled, tried(0.3, 1.2)]).ratio == 1.2, "the most fluent where none is fluent"
    assert choose([failed]) is None
    assert choose([tried(0.0, float("nan")), tried(float("nan"), 1.0), toxic]) == toxic, (
        "what is not finite is no choice"
    )


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


def grid(values, toxic, ratios):
    return [Tried(f"s{v}", f"x={v}", t, r, 0.5, value=v) for v, t, r in zip(values, toxic, ratios, strict=True)]


def test_a_grid_goes_on_while_the_chosen_setting_is_at_its_edge():
    stronger = grid([0.1, 0.3, 1.0], [0.3, 0.2, 0.1], [1.0, 1.0, 1.01])
    assert beyond(stronger) == 3.3, "steps of equal ratio"
    assert beyond(stronger, most=2) == 2 and beyond(stronger, most=1) is None
    assert beyond(grid([0.1, 0.3, 1.0], [0.3, 0.2, 0.1], [1.0, 1.0, 1.028])) is None, "it uses up the tolerance"
    assert beyond(grid([0.1, 0.3, 1.0], [0.3, 0.1, 0.0], [1.0, 1.01, 1.5])) is None, "not at the edge"
    assert beyond(grid([0.1, 0.3, 1.0], [0.2, 0.1, 0.0], [1.1, 1.2, 1.5])) == pytest.approx(0.033), "none is fluent"
    assert beyond(grid([1, 2, 3], [0.1, 0.2, 0.3], [1.0, 1.0, 1.0]), least=1) is None
    assert beyond(grid([2, 3, 4], [0.1, 0.2, 0.3], [1.0, 1.0, 1.0])) == 1
    assert beyond(grid([10, 30, 100], [0.1, 0.2, 0.3], [1.0, 1.0, 1.0])) == 3.3, "never 10 − 20"
    assert beyond(grid([1, 2, 4], [0.1, 0.2, 0.3], [1.0, 1.0, 1.0])) == 0.5
    many = grid([2.0**n for n in range(TRIES)], [1 / (n + 2) for n in range(TRIES)], [1.0] * TRIES)
    assert beyond(many) is None and beyond(many[1:]) == 2.0**TRIES
    unsteered = Tried(UNSTEERED, "x=0", 0.4, 1.0, 0.5, value=0)
    assert beyond([unsteered, *stronger]) == 3.3
    failed = Tried("further_3", "x=3.3", problem="failed", value=3.3)
    assert beyond([*stronger, failed]) is None and beyond([Tried(None, "–", 0.3, 1.0, 0.5)]) is None
