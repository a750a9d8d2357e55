"""The command line: sweeps, single runs, plans, cleaning, and mistakes."""

import csv
import json
import shutil

import pytest
import yaml
from command_line import SMOKE, run
from composing import CONF, composed
from rows import Row
from run_folders import write_sweep
from tiny import tiny_model

from ifguide.stages import commands
from ifguide.stages.configuration import SETTINGS, prepare
from ifguide.stages.row import write_run

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


def test_a_plan_builds_nothing_and_says_what_would_be(tmp_path):
    plan = run(tmp_path, "stage=plan", "curvature.damping=0.1", SMOKE).stdout
    assert "factors" in plan and "to build" in plan and "found" not in plan and "curvature.damping=0.1" in plan
    assert "device-hours" in plan and "fits: " in plan
    assert not (tmp_path / "workspace").exists()
    Row(tmp_path, "stage=data").run()
    assert "found" in run(tmp_path, "stage=plan", SMOKE).stdout


def test_clean_lists_what_no_run_needs_and_removes_it_when_told_to(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "ifguide")
    rows = [Row(tmp_path, "stage=proxy", f"proxy.seed={seed}").run() for seed in (0, 4)]
    (tmp_path / "kept").mkdir()
    write_run(rows[0].plan, {}, rows[0].workspace, tmp_path / "kept")  # as a run does before anything is made
    kept, lost = (row.path("proxy").name for row in rows)

    def clean(*overrides):
        caplog.clear()
        commands.clean(composed("stage=clean", *overrides), tmp_path)
        return caplog.text, {path.name for path in tmp_path.glob("workspace/model-*")}

    for runs in ("kept", "[kept]"):
        listed, models = clean(f"clean.runs={runs}")
        assert lost in listed and kept not in listed and "data-" not in listed and models == {kept, lost}
    _, models = clean("clean.runs=[kept]", "clean.confirm=true")
    assert models == {kept}
    named = tmp_path / "kept" / ".hydra" / "config.yaml"
    again = Row(tmp_path, "stage=proxy", "proxy.seed=4").run().path("proxy")
    named.parent.mkdir()
    named.write_text(f"evaluation: {{reference_model: {again}}}")
    listed, _ = clean("clean.runs=[kept]")
    assert again.name not in listed and "0 artifacts" in listed, "a model that a setting names"
    named.unlink()
    shutil.rmtree(again)
    with pytest.raises(ValueError, match=r"clean\.runs: no run in nowhere"):
        clean("clean.runs=[nowhere]", "clean.confirm=true")
    with pytest.raises(ValueError, match=r"clean\.runs: no run in outputs or multirun"):
        clean("clean.confirm=true")
    whole = (tmp_path / "kept" / "run.json").read_text()
    for damaged in ("{", "[]", "{}", '{"artifacts": []}', "[" * 100_000):
        (tmp_path / "kept" / "run.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"clean\.runs: kept/run\.json is damaged \("):
            clean("clean.runs=[kept]", "clean.confirm=true")
    (tmp_path / "kept" / "run.json").write_text(whole)
    (tmp_path / "kept").rename(tmp_path / "multirun")  # after sweeps alone there is no run in `outputs`
    assert "0 artifacts" in run(tmp_path, "stage=clean").stdout


@pytest.mark.parametrize("added, message", [
    ("+evaluation.prompts.part=validation", r"^evaluation\.prompts: there is no such setting; evaluation has dtype, b"),
    ("+report.sort=method", r"^report\.sort: there is no such setting; report has runs, reference, by$"),
])  # fmt: skip
def test_a_setting_that_nothing_reads_is_refused(added, message):
    with pytest.raises(ValueError, match=message):
        prepare(composed(added))
    cfg = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    assert {node: tuple(cfg[node]) for node in SETTINGS} == SETTINGS


def test_a_setting_that_was_not_tried_is_refused():
    with pytest.raises(ValueError, match=r"^tuning\.setting=best: objective\.penalty has low, middle, high$"):
        prepare(composed("method=ifguide", "tuning=sample", "tuning.setting=best"))
    for given in ("low", "null"):  # null: where the tuned setting is overridden
        prepare(composed("method=ifguide", "tuning=sample", f"tuning.setting={given}", "objective.penalty=1"))


def test_a_report_is_by_one_setting_or_several(tmp_path):
    write_sweep(tmp_path, seeds=(1, 2))
    for by in ("method", "[method]"):
        cfg = composed("stage=report", f"report.runs={tmp_path}/sweep", f"report.by={by}", f"paths.run={tmp_path}/out")
        commands.report(cfg, tmp_path / "out")
        assert (tmp_path / "out" / "report.html").is_file()


def test_a_judge_does_not_ask_for_more_samples_than_there_are(tmp_path):
    row, judge = Row(tmp_path), tmp_path / "judge"
    tiny_model().save_pretrained(judge)
    given = (f"judge.pretrained={judge}", "judge.samples=9", "tasks.toxicity.samples=3")
    cfg = composed(SMOKE, "judge=toxicity", *given)
    with pytest.raises(ValueError, match=r"^judge\.samples=9: tasks\.toxicity\.samples is 3$"):
        commands.check_judge(cfg, row.plan)


def test_one_process_is_the_first_whatever_its_surroundings_say(tmp_path):
    """A rank that is left over, a notebook's backend, a terminal without arrows, a folder named from home.

    A single run ends in a report of one row, and in a log of what was printed.
    """
    surroundings = {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2",
        "SLURM_JOB_NAME": "packed", "HOME": str(tmp_path), "MPLBACKEND": "module://no_such_module.inline",
        "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    command = (SMOKE, "paths.workspace='~/kept here'", "hydra.run.dir=run")
    printed = run(tmp_path, *command, fresh=True, **surroundings).stdout
    assert len(list(tmp_path.glob("kept here/model-*/config.json"))) >= 1
    folder = tmp_path / "run"
    for name in ("report.html", "table.md", "table.csv", "metrics.json", "run.json"):
        assert (folder / name).stat().st_size > 0
    assert list(folder.glob("model/metrics.csv")), "the log of what was trained"
    for text, arrow in ((printed, "?"), ((folder / "run.log").read_text(), "↓")):
        table = text.split("| metric", 1)[1]
        assert f"toxic fraction {arrow}" in table and "report: run/report.html" in table
        assert max(map(len, table.splitlines())) <= 100


def test_the_folder_of_a_report_may_be_named_anything(tmp_path):
    name = "a [b], c=(d) o'clock *?"
    escaped = name.replace("'", "\\'")
    write_sweep(tmp_path / "made", seeds=(1,)).rename(tmp_path / name)
    assert "| ifguide " in run(tmp_path, "stage=report", f"report.runs='{escaped}'").stdout


@pytest.mark.parametrize(
    "override, message",
    [
        ("selection.limit=3", "selection.limit=3"),
        ("+optim.epoch=3", "error: optim.epoch: there is no such setting; ~optim.epoch takes it out"),
        ("data=local", "Missing mandatory value: data.sources.local.files"),
        ("decoding.top_p=high", "error: decoding.top_p=high: it is a number"),
        ("model.pretrained=EleutherAI/x", "model.pretrained=EleutherAI/x cannot be loaded: "),
    ],
)
def test_a_mistake_ends_in_one_line_without_a_traceback(tmp_path, override, message):
    small = [SMOKE] if "data=" not in override else []
    result = run(tmp_path, *small, override, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line


def test_the_configuration_that_a_run_leaves_makes_the_same_run(tmp_path):
    """With the name of its row, and with nothing to build: every fingerprint is the same."""
    run(tmp_path, "method=token_filter", "selection.limit=0.03", "stage=model", SMOKE, "hydra.run.dir=first")
    saved = ("--config-path", str(tmp_path / "first" / ".hydra"), "--config-name", "config")
    again = run(tmp_path, *saved, "hydra.run.dir=again")
    rows = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("first", "again")]
    assert rows[0] == rows[1] and rows[0]["name"] == "token_filter" and "(0 s)" not in again.stdout
    assert "(found)" in again.stdout + again.stderr
