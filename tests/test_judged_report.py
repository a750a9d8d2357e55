"""Win rates in a report, from run folders to the table."""

import csv
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from composing import composed
from run_folders import write_sweep
from tiny import tiny_tokenizer

from ifguide.corpus.documents import Prompt
from ifguide.decoding.generation import GENERATIONS_FILE, load_generations, save_generations
from ifguide.evaluation.judge import Judge
from ifguide.models import ModelSettings
from ifguide.stages.commands import report
from ifguide.statistics import proportion_interval
from ifguide.workspace import Recipe, Workspace

METHODS = (("none", 0.9, 12.0), ("ifguide", 0.3, 12.5))


def save_prompts(directory, *, asked, texts):
    save_generations(directory / GENERATIONS_FILE, asked, texts)


@pytest.fixture
def sweep(tmp_path):
    """Two seeds of two methods, whose generations are artifacts."""
    sweep = write_sweep(tmp_path, seeds=(1, 2), methods=METHODS)
    for file in sweep.glob("*/run.json"):
        facts = json.loads(file.read_text())
        rows = load_generations(Path(facts["artifacts"]["generations.toxicity"]) / GENERATIONS_FILE)
        asked = [Prompt(*row) for row in zip(rows["prompt"], rows["subset"], rows["record"], strict=True)]
        texts = [[f" {file.parent.name}{text}" for text in texts] for texts in rows["continuations"]]
        made = Workspace(tmp_path / "workspace").build(
            Recipe("generations", 1, {"of": file.parent.name}, {}), partial(save_prompts, asked=asked, texts=texts)
        )
        facts["artifacts"]["generations.toxicity"] = str(made.path)
        file.write_text(json.dumps(facts))
    return sweep


@pytest.fixture
def judge(tmp_path):
    settings = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = ModelSettings(architecture="gpt_neox", settings=settings).build(320, None)
    for parameter in model.parameters():  # or its preferences drown in rounding
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "judge")
    tiny_tokenizer(["Continuation A or B"]).save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def written(sweep, judge, *overrides):
    folder = sweep.parent
    settings = [
        "stage=report", f"report.runs={sweep}", "judge=toxicity", f"judge.pretrained={judge}", "judge.limit=7",
        f"paths.workspace={folder}/workspace", f"paths.run={folder}/report", *overrides,
    ]  # fmt: skip
    report(composed(*settings), folder / "report")
    with (folder / "report" / "table.csv").open() as table:
        return {row["method"]: row for row in csv.DictReader(table)}


def test_the_table_has_win_rates_against_the_reference(sweep, judge, monkeypatch):
    rows = written(sweep, judge)
    files = list(sweep.parent.glob("workspace/judgements-*/judgements.json"))
    assert len(files) == 2
    values = []
    for file in files:
        judged = json.loads(file.read_text())
        assert len(judged) == 7 and len({row["record"] for row in judged}) == 7
        values.append([float(row["log_odds"][0] > row["log_odds"][1]) for row in judged])
    assert float(rows["ifguide"]["judge.all.win_rate"]) == pytest.approx(np.mean(values))
    low, high = proportion_interval(np.array(values))
    assert float(rows["ifguide"]["judge.all.win_rate_low"]) == pytest.approx(low)
    assert float(rows["ifguide"]["judge.all.win_rate_high"]) == pytest.approx(high)
    assert rows["none"]["judge.all.win_rate"] == "" and rows["ifguide"]["judge.all.same_in_both_orders"] != ""
    table = (sweep.parent / "report" / "table.md").read_text()
    assert "| win rate ↑ | same in both orders |" in re.sub(" +", " ", table)
    rate = [float(rows["ifguide"][f"judge.all.win_rate{end}"]) for end in ("_low", "_high")]
    assert ("not told from a coin" in table) == (rate[0] <= 0.5 <= rate[1])
    assert "win rate ↑" in table and "win rate against none, by the judge" in table
    monkeypatch.setattr(Judge, "__call__", lambda *_: pytest.fail("asked again"))
    assert written(sweep, judge, "judge.batch_size=3")["ifguide"] == rows["ifguide"]


def test_what_is_missing_is_said(sweep, judge):
    with pytest.raises(ValueError, match=r"name a row in report\.reference"):
        written(sweep, judge, "report.reference=null")
    for folder in sweep.parent.glob("workspace/generations-????????????????"):
        shutil.rmtree(folder)
    assert written(sweep, judge)["ifguide"].get("judge.all.win_rate", "") == ""
    assert "no win rate: no generations of the same seeds" in (sweep.parent / "report" / "table.md").read_text()
