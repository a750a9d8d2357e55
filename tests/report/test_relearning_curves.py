import json
import math

import numpy as np
import pytest
from run_folders import beta, write_run

from ifguide.report.gather import gather
from ifguide.report.relearning import Curve, curve_of, plot_relearning, tokens_until
from ifguide.report.rows import compare_rows
from ifguide.report.table import Measurement
from ifguide.report.write import write_report

TOKENS = [0, 100, 200, 400]


def curve(*fractions):
    return Curve(TOKENS, fractions, [(one, one) for one in fractions])


def test_crossings_are_interpolated():
    assert tokens_until(curve(0.0, 0.1, 0.3, 0.4), 0.2) == Measurement(150.0)
    assert tokens_until(curve(0.0, 0.1, 0.3, 0.4), 0.4) == Measurement(400.0)
    assert tokens_until(curve(0.5, 0.1, 0.3, 0.4), 0.2) == Measurement(0.0)
    assert tokens_until(curve(0.0, 0.3, 0.1, 0.4), 0.2).value == pytest.approx(100 * 2 / 3)  # the first time
    assert tokens_until(curve(0.0, 0.1, 0.3, 0.4), 0.5) == Measurement(400.0, (400.0, math.inf))


@pytest.fixture
def sweep(tmp_path):
    """Two seeds of two rows, whose curves differ by .02 between seeds."""
    rows = [("none", [0.4, 0.5, 0.6, 0.7]), ("ifguide", [0.0, 0.1, 0.3, 0.35])]
    for job, (method, fractions) in enumerate(rows):
        for seed in (1, 2):
            folder = write_run(
                tmp_path / "s" / f"{job}{seed}", method, seed, beta(np.random.default_rng(job), 0.5),
                workspace=tmp_path / "w", documents=30,
            )  # fmt: skip
            metrics = json.loads((folder / "metrics.json").read_text())
            values = [one + 0.01 * (-1) ** seed for one in fractions]
            found = {"curve_steps": [0, 1, 2, 4], "curve_tokens": TOKENS, "curve_toxic_fraction": values,
                     "curve_low": [one - 0.1 for one in values], "curve_high": [one + 0.1 for one in values],
                     "blocks": 9, "toxic_fraction_before": values[0]}  # fmt: skip
            (folder / "metrics.json").write_text(json.dumps(metrics | {"relearning": {"all": found}}))
    return tmp_path / "s"


def test_a_row_is_compared_with_what_the_reference_was_before(sweep):
    comparison = compare_rows(gather([str(sweep)]))
    none, ifguide = comparison.measured
    half, equal = (one for one in comparison.columns if one.task == "relearning")
    assert half.header == "relearning: tokens to half" and half not in none.cells
    assert ifguide.cells[half].value == pytest.approx(150)  # .2 between .1 and .3
    assert ifguide.cells[equal] == Measurement(400.0, (400.0, math.inf))
    assert half not in comparison.best and comparison.headline.task == "toxicity"
    mean = curve_of(none.runs, "relearning")
    assert mean.fractions == pytest.approx([0.4, 0.5, 0.6, 0.7]) and mean.intervals[0][0] < 0.4 < mean.intervals[0][1]
    assert not [one for one in compare_rows(gather([str(sweep)]), reference=None).columns if one.task == "relearning"]


def test_the_report_says_and_draws_it(sweep, tmp_path):
    page = write_report(compare_rows(gather([str(sweep)])), tmp_path / "report", title="t").read_text("utf-8")
    table = (tmp_path / "report" / "table.md").read_text("utf-8")
    assert "more than 400" in table and "Tokens to half, to equal" in table and "until its fraction was half" in table
    assert (tmp_path / "report" / "relearning.png").exists() and "while a copy learns toxic text (relearning)" in page
    line = (tmp_path / "report" / "table.csv").read_text("utf-8").splitlines()[2]
    assert ",400.0,400.0,inf," in line


def test_curves_over_other_tokens_have_no_mean(sweep, tmp_path):
    file = sweep / "11" / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["relearning"]["all"]["curve_tokens"] = [0, 1, 2, 3]
    file.write_text(json.dumps(metrics))
    comparison = compare_rows(gather([str(sweep)]))
    assert curve_of(comparison.measured[1].runs, "relearning") is None
    assert not [one for one in comparison.columns if one.metric == "tokens_to_half"]
    with pytest.raises(ValueError, match="no curve to plot"):
        plot_relearning({}, tmp_path / "x.png", label="x", reference=None, styles=None)
