"""Experiments that are small enough to be run on the built-in sample."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_attribution_quality_on_the_sample(tmp_path):
    pytest.importorskip("profanity_check")
    command = ["experiments/attribution_quality/run.py", "size=sample", f"output={tmp_path}"]
    options = [
        f"paths.workspace={tmp_path}/workspace",
        f"paths.run={tmp_path}/run",
        "data.sources.sample.size=600",
        "curvature.blocks=32",
        "trainer.progress=false",
    ]
    done = subprocess.run([sys.executable, *command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert len(rows) == 4 + 5 + 1  # variants, rivals, and the name of the best
    for name, row in rows.items():
        if name != "best":
            assert name in text and 0 <= row["roc_auc_interval"][0] <= row["roc_auc"] <= 1
    assert rows["exact (`jvp`)"]["roc_auc"] > 0.75, "scores on the sample find the planted insults"
    for figure in ("precision_recall", "mask_overlap", "cost"):
        assert f"({figure}.png)" in text and (tmp_path / f"{figure}.png").stat().st_size > 10_000


def test_rivals_on_a_tiny_sample(tmp_path):
    pytest.importorskip("profanity_check")
    options = ["size=tiny", "methods=toxicity_filter", f"output={tmp_path}", f"paths.workspace={tmp_path}/w"]
    command = [sys.executable, "experiments/rivals/run.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert list(rows) == ["toxicity_filter"]
    assert "| toxicity_filter\\* | threshold=" in text and "Made with the classifier that evaluates it" in text
    assert text.count("| toxicity_filter | ") == 4 and text.count("**threshold=") == 1
    assert 0 < rows["toxicity_filter"]["tokens dropped"][0] < 1
