"""The report at the end of a sweep, and what is said where it fails."""

import shlex
from pathlib import Path
from types import SimpleNamespace

from omegaconf import OmegaConf

from ifguide.stages import commands
from ifguide.stages.commands import SweepReport, report_command


def test_the_advice_repeats_what_the_report_depends_on():
    given = [
        "method=none,ifguide", "seed=1,2", "judge=quality", "judge.pretrained=my judge", "+report.by=[method,seed]",
        "judge.template='{prompt} {first} {second}'", "objective.penalty=1", "paths.workspace=w", "logger=wandb",
    ]  # fmt: skip
    typed = shlex.split(report_command(Path("/runs/it's here"), given))
    assert typed[:4] == ["python", "run.py", "stage=report", "report.runs='/runs/it\\'s here'"]
    assert report_command(Path.cwd() / "multirun" / "2026-01-31", []).endswith("report.runs=multirun/2026-01-31")
    assert typed[4:] == [given[2], given[3], given[4], given[5], given[7], given[8]]


def test_rows_that_failed_in_processes_of_their_own_are_failures_of_the_program(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "failures", [])
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    (tmp_path / "1" / "failure.json").write_text("{}")
    for stage, expected in (("plan", []), ("mask", [str(tmp_path / "1" / "failure.json")])):
        SweepReport().on_multirun_end(OmegaConf.create({"stage": stage, "hydra": {"sweep": {"dir": str(tmp_path)}}}))
        assert commands.failures == expected


def test_a_report_that_fails_is_a_failure_of_the_program(tmp_path, monkeypatch, caplog):
    config = OmegaConf.create(
        {"stage": "evaluate", "logger": {}, "judge": {"pretrained": "x"},
         "hydra": {"sweep": {"dir": str(tmp_path)}, "runtime": {}, "overrides": {"task": ["judge=quality"]}}}
    )  # fmt: skip
    monkeypatch.setattr(commands, "failures", [])
    monkeypatch.setattr(commands.HydraConfig, "instance", lambda: SimpleNamespace(set_config=lambda config: None))

    def broken(*_):
        raise ValueError("the judge is broken")

    monkeypatch.setattr(commands, "report", broken)
    SweepReport().on_multirun_end(config)
    assert commands.failures == [f"report of {tmp_path}"]
    assert "the judge is broken" in caplog.text and "judge=quality" in caplog.text
