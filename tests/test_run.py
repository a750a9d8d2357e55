"""The command line: sweeps, single runs, plans, cleaning, and mistakes."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from command_line import SMOKE, run
from run_folders import write_sweep

pytest.importorskip("profanity_check")
pytestmark = pytest.mark.slow


def test_a_sweep_with_a_job_that_fails_reports_it(tmp_path):
    """The failure of a job is a row, and the sweep's exit code."""
    result = run(tmp_path, "-m", "method=none,ifguide", "optim.learning_rate=1e-3,1e9", "seed=1", SMOKE, check=False)
    assert result.returncode == 1
    (sweep,) = tmp_path.glob("multirun/*/*")
    with (sweep / "table.csv").open() as table:
        rows = {row["method"]: row for row in csv.DictReader(table)}
    good, bad = "optim.learning_rate=0.001", "optim.learning_rate=1000000000"
    assert set(rows) == {f"none, {good}", f"ifguide, {good}", f"none, {bad}, seed 1", f"ifguide, {bad}, seed 1"}
    assert rows[f"ifguide, {good}"]["reference"] == f"none, {good}"
    assert all(rows[f"{name}, {bad}, seed 1"]["problem"].startswith("failed: ") for name in ("none", "ifguide"))
    failed = [folder for folder in sweep.glob("[0-9]*") if (folder / "failure.json").is_file()]
    assert len(failed) == 2 and all((folder / "run.json").is_file() for folder in failed)
    source = (sweep / "report.html").read_text()
    assert "Training tokens: ifguide" in source and "Generations" in source


def test_a_single_run_ends_in_a_report_of_one_row_and_a_log(tmp_path):
    result = run(tmp_path, SMOKE)
    (folder,) = tmp_path.glob("outputs/*/*")
    for name in ("report.html", "table.md", "table.csv", "metrics.json", "run.json"):
        assert (folder / name).stat().st_size > 0
    assert "ifguide ¹" in result.stdout and "ifguide ¹" in (folder / "run.log").read_text()


def test_a_plan_builds_nothing_and_says_what_would_be(tmp_path):
    plan = run(tmp_path, "stage=plan", "curvature.damping=0.1", SMOKE).stdout
    assert "factors" in plan and "to build" in plan and "found" not in plan and "curvature.damping=0.1" in plan
    assert not (tmp_path / "workspace").exists()
    run(tmp_path, "stage=data", SMOKE)
    assert "found" in run(tmp_path, "stage=plan", SMOKE).stdout


def test_clean_lists_what_no_run_needs_and_removes_it_when_told_to(tmp_path):
    run(tmp_path, "stage=proxy", "hydra.run.dir=kept", SMOKE)
    run(tmp_path, "stage=proxy", "hydra.run.dir=lost", "proxy.seed=4", SMOKE)
    shutil.rmtree(tmp_path / "lost")
    command = ["stage=clean", "clean.runs=[kept]"]
    listed = run(tmp_path, *command).stdout
    models = {path.name for path in tmp_path.glob("workspace/model-*")}
    kept = Path(json.loads((tmp_path / "kept" / "run.json").read_text())["artifacts"]["proxy"]).name
    (lost,) = models - {kept}
    assert lost in listed and kept not in listed and "data-" not in listed
    assert (tmp_path / "workspace" / lost).is_dir()
    run(tmp_path, *command, "clean.confirm=true")
    assert {path.name for path in tmp_path.glob("workspace/model-*")} == {kept}
    result = run(tmp_path, "stage=clean", "clean.runs=[nowhere]", "clean.confirm=true", check=False)
    assert result.returncode == 1 and "clean.runs: no run in nowhere" in result.stderr
    result = run(tmp_path, "stage=clean", "clean.confirm=true", check=False)
    assert result.returncode == 1 and "clean.runs: no run in outputs or multirun" in result.stderr
    (tmp_path / "kept").rename(tmp_path / "multirun")  # after sweeps alone there is no run in `outputs`
    assert "0 artifacts" in run(tmp_path, "stage=clean").stdout


def test_one_process_is_the_first_whatever_its_surroundings_say(tmp_path):
    """A rank that is left over, a notebook's backend, a terminal without arrows, a folder named from home."""
    surroundings = {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2",
        "SLURM_JOB_NAME": "packed", "HOME": str(tmp_path), "MPLBACKEND": "module://no_such_module.inline",
        "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    run(tmp_path, SMOKE, "paths.workspace='~/kept here'", "hydra.run.dir=run", fresh=True, **surroundings)
    assert len(list(tmp_path.glob("kept here/model-*/config.json"))) >= 1
    assert (tmp_path / "run" / "metrics.json").is_file() and (tmp_path / "run" / "report.html").is_file()
    assert list((tmp_path / "run").glob("model/metrics.csv")), "the log of what was trained"
    page = run(tmp_path, "stage=report", "report.runs=run", "hydra.run.dir=report", fresh=True, **surroundings).stdout
    assert "toxic fraction ?" in page and (tmp_path / "report" / "report.html").is_file()


def test_folders_may_be_named_anything(tmp_path):
    """Rows of a sweep that need processes of their own find their folder, and the sweep is reported on."""
    name = "a [b], c=(d) o'clock"
    escaped = name.replace("'", "\\'")
    sweep = f"hydra.sweep.dir='{escaped}'"
    run(tmp_path, "-m", SMOKE, "trainer=ddp_cpu", "stage=data", "seed=0,1", sweep)
    assert {path.parent.name for path in tmp_path.glob("*/*/run.json")} == {"0", "1"}
    assert {path.parents[1].name for path in tmp_path.glob("*/*/run.json")} == {name}
    write_sweep(tmp_path / "made", seeds=(1,)).rename(tmp_path / f"{name} *?")
    assert "| ifguide " in run(tmp_path, "stage=report", f"report.runs='{escaped} *?'").stdout


@pytest.mark.parametrize(
    "override, message",
    [
        ("selection.limit=3", "selection.limit=3"),
        ("data=local", "Missing mandatory value: data.sources.local.files"),
        ("stage=nonsense", "known: data, proxy"),
        ("model.pretrained=./nowhere", "not a Hugging Face model folder"),
        ("trainer.precision=7", "precision"),
        ("decoding.top_p=high", "error: decoding: '<' not supported"),
        ("optim.epochs=two", "error: optim: '>=' not supported"),
        ("data.tokenizer.path=/nowhere", "data.tokenizer.path=/nowhere: no such file or folder"),
        ("model.pretrained=EleutherAI/x", "model.pretrained=EleutherAI/x cannot be loaded: "),
    ],
)
def test_a_mistake_ends_in_one_line_without_a_traceback(tmp_path, monkeypatch, override, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a hub that cannot be reached is asked again and again
    small = [SMOKE] if "data=" not in override else []
    result = run(tmp_path, *small, override, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
