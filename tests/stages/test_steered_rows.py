"""A steered row, end to end: it shares its model, and has a perplexity of its own."""

import pytest
from rows import Row

pytest.importorskip("profanity_check")


@pytest.mark.slow
def test_a_steered_row_shares_the_model_and_is_the_base_without_weight(begun):
    folder = begun()
    none = Row(folder, "method=none").run()
    base = Row(folder, "method=steering", "decoding.alpha=0").run()
    measured = ["generations", "toxicity", "fluency", "perplexity", "evaluation"]
    assert sorted(base.built) == sorted(["auxiliary", *measured]) and base.path("model") == none.path("model")
    assert base.metrics()["toxicity"] == none.metrics()["toxicity"]
    assert base.metrics()["perplexity"] == none.metrics()["perplexity"]
    rounded = Row(folder, "method=steering", "decoding.alpha=0", "evaluation.dtype=bfloat16").run()
    assert rounded.made["perplexity"].manifest["facts"] == {"dtype": "bfloat16"}
    exact, found = (row.metrics()["perplexity"]["all"]["perplexity"] for row in (none, rounded))
    assert exact != found == pytest.approx(exact, rel=1e-2)
    steered = Row(folder, "method=steering", "decoding.alpha=20", "decoding.block=0").run()
    assert steered.path("auxiliary.vector") == base.path("auxiliary.vector") and "auxiliary" not in steered.built
    assert steered.metrics()["perplexity"] != none.metrics()["perplexity"]
    other = Row(folder, "method=ifguide", "decoding=steering").plan
    assert other.roles["auxiliary.vector"].inputs["start"] is other.roles["model"], "of the model that is steered"
