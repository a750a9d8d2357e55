import csv
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from run_folders import COLUMNS, HEADLINE, write_run, write_sweep

from ifguide.report import formats
from ifguide.report.formats import comma_separated, latex, latex_text, markdown
from ifguide.report.gather import Run, gather
from ifguide.report.rows import compare_rows, infinite
from ifguide.report.table import Measurement, format_measurement
from ifguide.report.write import write_report


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return compare_rows(gather([str(write_sweep(tmp_path_factory.mktemp("formats")))]))


def made_up(**fractions):
    return compare_rows(
        [
            Run(
                name,
                {},
                {"method": name},
                {"seed": 1},
                {"toxicity": {"all": {"toxic_fraction": value}}, "perplexity": {"benign": {"perplexity": 9.0}}},
            )
            for name, value in fractions.items()
        ]
    )


def test_markdown_has_every_row_and_the_best_in_bold(comparison):
    lines = [line for line in markdown(comparison).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert cells[0][:4] == ["method", "seeds", "toxic fraction ↓", "Δ against none"]
    assert [row[0] for row in cells[2:]] == [
        "none ¹", "word_filter ¹", "ifguide ¹", "dpo ¹", "dpo, seed 4 ²", "rad, seed 1"
    ]  # fmt: skip
    bold = {(row[0], cells[0][i]) for row in cells[2:] for i, cell in enumerate(row) if cell.startswith("**")}
    assert ("ifguide ¹", "toxic fraction ↓") in bold and ("none ¹", "benign perplexity ↓") in bold
    assert cells[6][2].startswith("failed: the training loss is nan") and cells[6][2].endswith("…")
    assert cells[7][2] == "unfinished"
    assert "² failed: the training loss is nan at step 40. Use a smaller optim.learning_rate" in markdown(comparison)
    assert len({len(line) for line in lines}) == 1


def test_a_table_of_many_metrics_has_a_line_per_metric(comparison, monkeypatch):
    def cells():
        lines = [line for line in markdown(comparison).splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]

    wide = cells()
    monkeypatch.setattr(formats, "WIDEST", len(wide[0]) - 3)
    assert cells() == [list(column) for column in zip(*wide, strict=True)]


def test_large_values_have_no_decimals():
    assert format_measurement(Measurement(3014245.22, (2181922.36, 4151515.02))) == "3014245 [2181922, 4151515]"
    assert format_measurement(Measurement(-0.5, (-1.0, 0.25)), 2) == "-0.50 [-1.00, 0.25]"


def test_equal_as_displayed_is_equally_best_and_one_row_is_not_best():
    assert markdown(made_up(a=0.1001, b=0.1004, c=0.2)).count("**") == 4
    assert "**" not in markdown(made_up(a=0.1)) + markdown(made_up(a=0.1, b=0.1))
    assert markdown(made_up(a=float("nan"), b=0.2, c=0.3)).count("**0.200**") == 1


def test_csv_is_unrounded_and_complete(comparison):
    rows = list(csv.DictReader(io.StringIO(comma_separated(comparison))))
    assert [row["method"] for row in rows] == [row.name for row in comparison.rows]
    ifguide = rows[2]
    measured, difference = comparison.rows[2].cells[HEADLINE], comparison.rows[2].differences[HEADLINE]
    assert float(ifguide["toxicity.all.toxic_fraction"]) == measured.value
    assert float(ifguide["toxicity.all.toxic_fraction_low"]) == measured.interval[0]
    assert float(ifguide["toxicity.all.toxic_fraction_difference_high"]) == difference.interval[1]
    assert ifguide["seeds"] == "1 2 3" and ifguide["reference"] == "none"
    assert float(ifguide["toxicity.nontoxic.toxicity_probability"]) <= 1
    assert rows[4]["problem"].endswith("Use a smaller optim.learning_rate")
    assert rows[4]["toxicity.all.toxic_fraction"] == ""


def test_latex_has_one_line_a_row_with_equal_columns(comparison):
    text = latex(comparison)
    body = text[text.index("\\midrule") : text.index("\\bottomrule")].splitlines()[1:]
    assert len(body) == len(comparison.rows)
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])
    for line in body:
        spanned = re.search(r"\\multicolumn\{(\d+)\}", line)
        assert line.count(" & ") + 1 + (int(spanned[1]) - 1 if spanned else 0) == columns
    assert "\\textbf{0." in text and "word\\_filter" in text and "↓" not in text


def test_latex_escapes_what_it_must():
    assert latex_text("50 % of $x_1 & {y}\\ #~^") == (
        r"50 \% of \$x\_1 \& \{y\}\textbackslash{} \#\textasciitilde{}\textasciicircum{}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(comparison, tmp_path):
    document = (
        f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{latex(comparison)}\\end{{document}}"
    )
    (tmp_path / "t.tex").write_text(document)
    subprocess.run(["pdflatex", "-interaction=batchmode", "t.tex"], cwd=tmp_path, check=True, timeout=60)


def test_a_name_cannot_break_a_table():
    """Nor be a formula of a program that opens it."""
    comparison = made_up(**{"a|b\nc": 0.1, "=SUM(1)": 0.2, 'x"y,z': 0.3})
    assert "| a\\|b c" in markdown(comparison)
    assert [row["method"] for row in csv.DictReader(io.StringIO(comma_separated(comparison)))] == [
        "a|b\nc", "'=SUM(1)", 'x"y,z'
    ]  # fmt: skip


@pytest.mark.parametrize(
    "written", [None, float("inf"), float("nan")]
)  # the last two are no JSON, but were written once
def test_a_collapsed_model_is_never_the_best(tmp_path, written):
    values = np.full((4, 2), 0.2)
    write_run(tmp_path / "0", "none", 0, values, workspace=tmp_path / "w")
    for job, seed in (("1", 0), ("2", 1)):
        folder = write_run(tmp_path / job, "ifguide", seed, values * 0, workspace=tmp_path / "w")
        metrics = json.loads((folder / "metrics.json").read_text())
        if seed == 0:  # one of two seeds has collapsed
            metrics["perplexity"]["benign"] = {"perplexity": written, "perplexity_interval": [3.0, written]}
            (folder / "metrics.json").write_text(json.dumps(metrics))
    comparison = compare_rows(gather([str(tmp_path)]))
    line = next(line for line in markdown(comparison).splitlines() if line.startswith("| ifguide"))
    assert "**" not in line and "not finite" in line and "nan" not in line
    assert "benign perplexity ↓ is not finite" in markdown(comparison)
    write_report(comparison, tmp_path / "report", title="")
    cells = comparison.rows[1].cells
    assert all(measured.interval is None or np.isfinite(measured.interval).all() for measured in cells.values())


def test_a_perplexity_of_toxic_documents_may_rise_without_end(tmp_path):
    column = next(column for column in COLUMNS if column.subset == "toxic" and column.task == "perplexity")
    assert infinite({column: Measurement(float("inf"))}) == []
