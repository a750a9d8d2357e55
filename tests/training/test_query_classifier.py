"""The judge that is trained on queries: calibrated, and honest about what it cannot tell."""

import numpy as np
import pytest
from scipy.special import expit

from ifguide.corpus.documents import Query
from ifguide.statistics import calibration_error
from ifguide.training.query_classifier import QueryClassifier, platt

RNG = np.random.default_rng(0)
WORDS = "garden tap letter green drip house river stone paper bread".split()


def queries(count, *, told):
    """Half of them show it; told: by a word that is in them nine times out of ten."""
    made = []
    for index in range(count):
        shows = index % 2 == 0
        words = list(RNG.choice(WORDS, 6))
        if told:
            words[3] = "goal" if shows == (RNG.random() < 0.9) else "vote"
        made.append(Query("", f"{index} " + " ".join(words), shows, str(index)))
    return made


def test_calibration_error_is_its_definition():
    p, shows = np.array([0.05, 0.95, 0.92, 0.55]), np.array([False, True, False, True])
    assert calibration_error(p, shows) == pytest.approx((0.05 + abs(1.87 - 1) + 0.45) / 4)


def test_platt_finds_the_scale_and_shift_that_made_the_labels():
    logits = RNG.normal(size=20_000) * 3
    shows = RNG.random(20_000) < expit(0.5 * logits - 1)
    assert platt(logits, shows) == pytest.approx((0.5, -1), abs=0.05)
    assert platt(logits, RNG.random(20_000) < 0.5)[0] == pytest.approx(0, abs=0.02)


def test_a_judge_knows_what_its_queries_tell(tmp_path):
    settings = QueryClassifier(behaviour="sport", queries=queries(240, told=True), buckets=4096)
    facts = settings.fit(tmp_path)
    assert facts["roc_auc"] > 0.8 and facts["calibration_error"] < 0.15
    low, _, high = facts["probabilities"]
    assert low < 0.25 and high > 0.75
    judge = settings.load(tmp_path)
    scores = judge(["1 garden tap green goal house bread", "1 garden tap green vote house bread", ""])["toxicity"]
    assert scores[0] > 0.7 and scores[1] < 0.3 and 0 < scores[2] < 1
    assert judge.name == "trained on 240 queries of sport"


def test_a_judge_of_queries_that_do_not_differ_stays_near_a_half(tmp_path):
    facts = QueryClassifier(queries=queries(200, told=False), buckets=4096, epochs=5).fit(tmp_path)
    low, _, high = facts["probabilities"]
    assert 0.3 < low < high < 0.7 and 0.35 < facts["roc_auc"] < 0.65


def test_too_few_queries_are_refused():
    with pytest.raises(ValueError, match="queries: 4 of the half that trains the judge show the behaviour"):
        QueryClassifier(queries=queries(8, told=True))
