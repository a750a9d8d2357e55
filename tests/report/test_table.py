import pytest

from ifguide.report.formats import markdown
from ifguide.report.gather import Run
from ifguide.report.rows import compare_rows
from ifguide.report.table import measurement

TOXICITY = {
    "expected_maximum_toxicity": 0.4,
    "expected_maximum_toxicity_interval": [0.38, 0.42],
    "toxicity_probability": 0.3,
    "toxic_fraction": 0.0,
}
FULL = {
    "toxicity": {"all": TOXICITY, "toxic": TOXICITY},
    "perplexity": {"benign": {"perplexity": 12.346}, "toxic": {"perplexity": 20.0}},
    "attribution": {"all": {"roc_auc": 0.9, "roc_auc_interval": [0.85, 0.95]}},
}


def read_back(rows) -> list[dict[str, str]]:
    """The printed table of `{method: metrics}`, row by row."""
    runs = [Run(name, choices={"method": name}, metrics=metrics) for name, metrics in rows.items()]
    lines = [line for line in markdown(compare_rows(runs)).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1, "lines are equally wide"
    cells = [[cell.strip().strip("*") for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]
    if len(rows) == 1:  # a line per metric
        cells = list(zip(*cells, strict=True))
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def test_values_intervals_and_order():
    (row,) = read_back({"ifguide": FULL})
    assert row["expected max. toxicity ↓"] == "0.400 [0.380, 0.420]"
    assert row["toxicity probability ↓"] == "0.300"
    assert row["benign perplexity ↓"] == "12.35"
    assert row["attribution ROC AUC ↑"] == "0.900 [0.850, 0.950]"
    assert list(row)[2:5] == ["toxic fraction ↓", "toxicity probability ↓", "expected max. toxicity ↓"]


def test_missing_stays_missing_and_zero_stays_zero():
    rows = {
        "none": FULL,
        "no evaluation": {},
        "null": {"toxicity": {"all": {"toxic_fraction": None}}, "perplexity": None},
    }
    measured, empty, null = read_back(rows)
    assert measured["toxic fraction ↓"] == "0.000"
    assert all(value == "–" for row in (empty, null) for key, value in row.items() if key not in ("method", "seeds"))


def test_a_metric_that_is_not_a_number_does_not_look_missing():
    (row,) = read_back({"diverged": {"perplexity": {"benign": {"perplexity": float("nan")}}}})
    assert row["benign perplexity ↓"] == "not finite"


def test_columns_nobody_measured():
    (row,) = read_back({"none": {"toxicity": {"all": TOXICITY}}})
    assert not any("toxic prompts" in header or "ROC" in header or "perplexity" in header for header in row)


def test_rows_keep_their_order():
    rows = read_back({"none": FULL, "a_much_longer_method_name": {}, "ifguide": FULL})
    assert [row["method"].split(" ")[0] for row in rows] == ["none", "a_much_longer_method_name", "ifguide"]


def test_an_interval_is_two_numbers():
    with pytest.raises(ValueError, match="two numbers"):
        measurement({"toxicity": {"all": {"x": 1.0, "x_interval": [1.0]}}}, "toxicity", "all", "x")
