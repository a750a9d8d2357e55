"""What is printed fits a terminal."""

from pathlib import Path

import numpy as np
import pytest
from run_folders import beta, write_run, write_sweep

from ifguide.report.gather import gather
from ifguide.report.rows import compare_rows
from ifguide.report.table import shown_width
from ifguide.report.terminal import WIDTH, relative, short, summary


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("terminal"), seeds=(1, 2))


def test_the_table_fits_and_has_what_decides(sweep):
    text = summary(compare_rows(gather([str(sweep)])))
    lines = text.splitlines()
    assert max(map(shown_width, lines)) <= WIDTH
    assert "toxic fraction ↓" in lines[0] and "benign perplexity ↓" in lines[0] and "Δ against none" in lines[0]
    assert [line.split("|")[1].strip() for line in lines[2:8]] == [
        "none", "word_filter", "ifguide", "dpo", "dpo, seed 4", "rad, seed 1"
    ]  # fmt: skip
    (best,) = [line for line in lines if line.startswith("| ifguide")]
    assert best.split("|")[3].strip().startswith("*0.")
    assert "dpo, seed 4: failed: the training loss is nan at step 40." in text
    assert "note" in lines[-1] and "* the best of a column" in text


def test_one_run_has_a_line_per_metric(tmp_path):
    write_run(tmp_path / "r", "none", 1, beta(np.random.default_rng(0), 0.4), workspace=tmp_path / "w")
    text = summary(compare_rows(gather([str(tmp_path / "r")])))
    assert "| benign perplexity ↓ " in text and max(map(len, text.splitlines())) <= WIDTH


def test_long_names_of_rows_keep_their_ends(tmp_path):
    for job in range(2):
        given = {
            "workspace": tmp_path / "w",
            "overrides": [f"tasks.toxicity.prompts.files=/a/long/folder/of/files/{job}.jsonl"],
        }
        write_run(tmp_path / "s" / str(job), "none", 1, beta(np.random.default_rng(0), 0.4), **given)
    text = summary(compare_rows(gather([str(tmp_path / "s")]), reference=None))
    names = [line.split("|")[1].strip() for line in text.splitlines()[2:4]]
    assert [name[-7:] for name in names] == ["0.jsonl", "1.jsonl"] and all(
        name.startswith("none, tasks") for name in names
    )


def test_headers_are_short():
    assert short("perplexity, all held-out documents ↓") == "perplexity (all) ↓"
    assert short("perplexity, plain documents ↓") == "perplexity (plain) ↓"
    assert short("praise: fraction of samples ↓") == "praise: fraction ↓"


def test_a_long_name_is_cut(tmp_path):
    for job in range(2):
        write_run(tmp_path / str(job), "ifguide", 1, beta(np.random.default_rng(job), 0.4), workspace=tmp_path / "w",
                  overrides=[f"data.sources.local.files=my/{'very' * 9}/{job}"],
                  config={"data": {"sources": {"local": {"files": f"my/{'very' * 9}/{job}"}}}})  # fmt: skip
    assert max(map(shown_width, summary(compare_rows(gather([str(tmp_path)]))).splitlines())) <= WIDTH


def test_paths_are_seen_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative(tmp_path / "multirun" / "a") == str(Path("multirun", "a"))
    assert relative(tmp_path.parent / "other") == str(tmp_path.parent / "other")
