"""Options, kept results and pages of experiments; runs are launched by tests/test_experiments.py."""

import json
import sys
from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader

from ifguide.report.experiment import Experiment, facts_of, publish
from ifguide.report.gather import Run, plain


@pytest.fixture
def script(tmp_path):
    """experiments/letters/run.py in a made-up checkout."""
    folder = tmp_path / "experiments" / "letters"
    folder.mkdir(parents=True)
    (folder / "README.md.j2").write_text("{# as it is #}\n# Letters\n\n`{{ command }}`: {{ count }} letters.\n")
    return folder / "run.py"


def test_options_are_told_from_overrides(script):
    given = ["size=large", "seed=1", "+data.x=2", "paths.workspace=w", "trainer.devices=2", "render=true"]
    experiment = Experiment(script, given, {"size": "small", "methods": ""})
    assert experiment.options == {"size": "large", "methods": "", "output": "", "runs": "", "render": "true"}
    assert experiment.overrides == ["seed=1", "+data.x=2", "paths.workspace=w", "trainer.devices=2"]
    assert experiment.command == "python experiments/letters/run.py size=large seed=1 +data.x=2"
    assert experiment.output == script.parent / "large" and experiment.runs == (
        script.parents[2] / "multirun" / "letters" / "large"
    )
    usual = Experiment(script, [], {"size": "small"})
    assert usual.output == script.parent and usual.results_file == script.parent / "results.json"
    assert Experiment(script, page="sizes.md").results_file.name == "sizes.json"


def test_results_are_kept_and_the_page_is_made_again_without_measuring(script, monkeypatch, capsys):
    def measure(experiment):
        experiment.stages["data"] = 2
        return {"count": 26, "figures": {"count": 26}}

    monkeypatch.setattr(sys, "argv", [str(script)])
    publish(str(script), measure)
    kept = json.loads((script.parent / "results.json").read_text())
    assert kept["stages"] == {"data": 2} and "CPU cores" in kept["machine"]
    page = script.parent / "README.md"
    assert page.read_text() == "# Letters\n\n`python experiments/letters/run.py`: 26 letters.\n"
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"count": 26}

    template = script.parent / "README.md.j2"
    template.write_text(template.read_text() + "No more.\n")
    monkeypatch.setattr(sys, "argv", [str(script), "render=true"])
    publish(str(script), lambda experiment: pytest.fail("nothing is measured"))
    assert page.read_text().endswith("26 letters.\nNo more.\n")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"count": 26}


def test_a_page_without_results_cannot_be_made(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(script), "render=true"])
    with pytest.raises(SystemExit, match="measure first"):
        publish(str(script), lambda experiment: {})


def test_runs_are_read_back_and_their_stages_noted(script, monkeypatch):
    """A run that is interrupted ends the experiment; one that fails is a row that says so."""

    def launched(command, env, **options):
        folder = experiment.runs / "first" / "0"
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text("{seed: 1, stage: model}")
        made = script.parent / "model-1"
        made.mkdir()
        (made / "manifest.json").write_text(
            json.dumps({"stage": "model", "version": 3, "fingerprint": "1", "inputs": {}, "files": {}})
        )
        (folder / "run.json").write_text(json.dumps({"stage": "model", "artifacts": {"model": str(made)}}))
        assert command[1:] == ["run.py", "-m", "stage=model", "seed=1", f"hydra.sweep.dir='{experiment.runs}/first'",
                               "~hydra.callbacks.report"]  # fmt: skip
        return code

    experiment, code = Experiment(script, ["seed=1"]), 0
    monkeypatch.setattr("ifguide.report.experiment.run_through", launched)
    run = experiment.run("first", "stage=model")
    assert run.artifacts["model"].name == "model-1" and experiment.stages == {"model": 3}
    for code in (-9, 1):  # killed; and a setting that does not exist, which no run says
        monkeypatch.setattr("ifguide.report.experiment.run_through", lambda *_, code=code, **options: code)
        with pytest.raises(SystemExit, match=f"ended with {code}; start again to continue"):
            experiment.sweep("second")


def test_one_run_is_one_and_render_is_true_or_false(script, monkeypatch):
    monkeypatch.setattr(Experiment, "sweep", lambda self, *given: [Run("a"), Run("b")])
    with pytest.raises(SystemExit, match="error: seed=1,2: 2 runs in the place of one, first"):
        Experiment(script, ["seed=1,2"]).run("first")
    with pytest.raises(SystemExit, match="error: render=True: it is true or false"):
        Experiment(script, ["render=True"]).results(lambda experiment: {})


def test_macros_of_pages_know_what_is_not_finite():
    """Which is null in kept results."""
    folder = Path(__file__).parents[2] / "experiments"
    macros = Environment(loader=FileSystemLoader(folder)).get_template("tables.md.j2").module
    assert (macros.change(2.0, 3.0), macros.change(None, 3.0)) == ("+50.0%", "not known")
    assert (macros.ratio(1.0, 4.0), macros.ratio(1.0, None)) == ("0.250", "–")


def test_whole_numbers_are_shown_whole():
    assert [plain(value) for value in (1234567890123, "1e-3", True, None)] == ["1234567890123", "0.001", "true", "null"]


def test_a_run_that_was_not_evaluated_has_no_facts():
    with pytest.raises(SystemExit, match="it diverged"):
        facts_of(Run("there", problem="failed: it diverged"))
