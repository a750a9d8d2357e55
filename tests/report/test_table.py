import pytest

from ifguide.report.table import comparison_table, measurement

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


def read_back(table: str) -> list[dict[str, str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_values_intervals_and_order():
    (row,) = read_back(comparison_table({"ifguide": FULL}))
    assert row["expected max. toxicity ↓"] == "0.400 [0.380, 0.420]"
    assert row["toxicity probability ↓"] == "0.300"
    assert row["benign perplexity ↓"] == "12.35"
    assert row["attribution ROC AUC ↑"] == "0.900 [0.850, 0.950]"
    assert list(row)[:4] == ["method", "toxic fraction ↓", "toxicity probability ↓", "expected max. toxicity ↓"]


def test_missing_stays_missing_and_zero_stays_zero():
    rows = {
        "none": FULL,
        "no evaluation": {},
        "null": {"toxicity": {"all": {"toxic_fraction": None}}, "perplexity": None},
    }
    measured, empty, null = read_back(comparison_table(rows))
    assert measured["toxic fraction ↓"] == "0.000"
    assert set(empty.values()) == {"no evaluation", "–"}
    assert set(null.values()) == {"null", "–"}


def test_a_metric_that_is_not_a_number_does_not_look_missing():
    (row,) = read_back(comparison_table({"diverged": {"perplexity": {"benign": {"perplexity": float("nan")}}}}))
    assert row["benign perplexity ↓"] == "nan"


def test_columns_nobody_measured():
    (row,) = read_back(comparison_table({"none": {"toxicity": {"all": TOXICITY}}}))
    assert not any("toxic prompts" in header or "ROC" in header for header in row)
    assert row["benign perplexity ↓"] == "–"


def test_lines_are_equally_wide_and_rows_keep_their_order():
    table = comparison_table({"none": FULL, "a_much_longer_method_name": {}, "ifguide": FULL}, marks={"none": "mark"})
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert [row["method"] for row in read_back(table)] == ["none ¹", "a_much_longer_method_name", "ifguide"]


def test_footnotes_are_shared_and_follow_the_table():
    marks = {"dpo": "own classifier", "rad": "reward model", "word_filter": "own classifier"}
    table = comparison_table({"rad": FULL, "none": FULL, "dpo": FULL, "word_filter": FULL}, marks=marks)
    assert [row["method"] for row in read_back(table)] == ["rad ¹", "none", "dpo ²", "word_filter ²"]
    assert table.endswith("\n\n¹ reward model\n\n² own classifier\n")


def test_a_name_cannot_break_the_table():
    table = comparison_table({"a|b\nc": FULL, "plain": FULL})
    assert "| a\\|b c" in table
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 4


@pytest.mark.parametrize(
    ("rows", "marks", "message"),
    [({}, None, "no methods"), ({"none": FULL}, {"nnoe": "typo"}, "nnoe.*rows are: none")],
)
def test_mistakes_are_named(rows, marks, message):
    with pytest.raises(ValueError, match=message):
        comparison_table(rows, marks=marks)


def test_an_interval_is_two_numbers():
    with pytest.raises(ValueError, match="two numbers"):
        measurement({"toxicity": {"all": {"x": 1.0, "x_interval": [1.0]}}}, "toxicity", "all", "x")
