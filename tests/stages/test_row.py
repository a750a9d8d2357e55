"""What a run returns to a sweeper."""

import pytest

from ifguide.stages.row import objective
from ifguide.stages.rules import check_objective, paths_of

METRICS = {"toxicity": {"all": {"toxic_fraction": 0.25}}, "perplexity": {"benign": {"perplexity": 30}}}
PATHS = ["toxicity.all.toxic_fraction", "perplexity.benign.perplexity"]


def test_one_path_is_a_number_and_several_are_a_list():
    assert objective(METRICS, PATHS[0]) == 0.25 and objective(METRICS, PATHS) == [0.25, 30.0]
    assert paths_of(PATHS[0]) == PATHS[:1] and paths_of(PATHS) == PATHS


def test_what_is_not_finite_is_a_failed_trial():
    broken = {**METRICS, "perplexity": {"benign": {"perplexity": float("nan")}}}
    assert objective(broken, PATHS) is None and objective(broken, PATHS[1]) is None
    assert objective(broken, PATHS[0]) == 0.25


def test_each_path_must_be_measured():
    with pytest.raises(ValueError, match=r"^objective_metric=perplexity.toxic.perplexity: it was not measured"):
        objective(METRICS, [PATHS[0], "perplexity.toxic.perplexity"])
    with pytest.raises(ValueError, match=r"^objective_metric=fluency: a path"):
        check_objective("fluency", ["toxicity"])
