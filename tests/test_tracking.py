"""What a run logs to W&B, read back from the files of offline runs."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import wandb
from run_folders import beta, write_run
from wandb_files import OfflineRun

from ifguide.report.gather import gather
from ifguide.report.rows import compare_rows
from ifguide.report.table import HEADLINE
from ifguide.tracking import (
    WandbRun,
    finish_tracking,
    flattened,
    gather_from_wandb,
    has_api_key,
    sweep_of,
    unflattened,
)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "home").mkdir()
    yield
    finish_tracking()


def written(folder: Path) -> list[OfflineRun]:
    return [OfflineRun(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def logger(folder, name="run", **options) -> WandbRun:
    return WandbRun(name, directory=str(folder), project="ifguide", **options)


@pytest.mark.parametrize(
    "given, wrong",
    [({"tags": ["ifguide", "x" * 65]}, "tags"), ({"tags": [""]}, "tags"), ({"label": "x" * 129}, "label"),
     ({"group": "x" * 129}, "group"), ({"job_type": "x" * 65}, "job_type")],
)  # fmt: skip
def test_a_name_that_wandb_would_refuse_is_refused_before_anything_is_logged(tmp_path, given, wrong):
    with pytest.raises(ValueError, match=rf"^{wrong}=x*: W&B takes names of 1 to \d+ characters"):
        logger(tmp_path, **given)
    logger(tmp_path, tags=["x" * 64], label="x" * 128)


def test_a_run_logs_settings_curves_metrics_table_plots_and_generations(tmp_path):
    values = beta(np.random.default_rng(0), 0.5, prompts=12)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    folder = write_run(tmp_path / "sweep" / "0", "ifguide", 3, values, workspace=tmp_path / "workspace")
    (folder / "frontier.png").write_bytes(_png())
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"notes": ["its own judge"]}))
    run = logger(folder, label="ifguide, seed 3", job_type="evaluate", tags=["ifguide", "tiny"])
    run.log_hyperparams({"seed": 3, "objective": {"penalty": 1.0}})
    for step, loss in enumerate((3.0, 2.0)):
        logger(folder, "model").log_metrics({"train/loss": loss}, step)
    logger(folder, "proxy").log_hyperparams({"objective": {"penalty": None}})
    logger(folder, "proxy").log_metrics({"train/loss": 9.0}, 0)
    run.log_run(folder)
    finish_tracking()

    (found,) = written(folder)
    assert found.run.display_name == "ifguide, seed 3" and found.run.project == "ifguide"
    assert found.run.run_group == f"{tmp_path.name}/sweep" and found.run.job_type == "evaluate"
    assert sorted(found.run.tags) == ["ifguide", "tiny"] and found.exit_code == 0
    assert found.config["seed"] == 3 and found.config["objective"] == {"penalty": 1.0}  # not the proxy's
    assert found.curve("model/train/loss") == [3.0, 2.0] and found.curve("proxy/train/loss") == [9.0]
    assert found.curve("trainer/global_step")[:2] == [0, 1]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert unflattened(found.summary, "metrics") == metrics and list(found.summary["notes"]) == ["its own judge"]
    media = next(folder.glob("wandb/offline-run-*/files/media"))
    (texts,) = (media / "table" / "generations").glob("*.json")
    table = json.loads(texts.read_text())
    assert table["columns"] == ["record", "subset", "prompt", "continuation", "toxicity"]
    assert len(table["data"]) == values.size
    assert table["data"][7][:3] == ["letters:1", "nontoxic", "Letter 1 says that"]
    assert np.allclose([row[4] for row in table["data"]], values.ravel())
    (report,) = (media / "table" / "report").glob("*.json")
    rows = json.loads(report.read_text())
    assert [row[0] for row in rows["data"]] == ["ifguide"]
    assert rows["data"][0][rows["columns"].index(HEADLINE.header)] == metrics["toxicity"]["all"]["toxic_fraction"]
    assert list((media / "images" / "report").glob("frontier*.png"))


def test_whoever_continues_in_a_folder_continues_its_run(tmp_path):
    for attempt in range(2):
        logger(tmp_path / "a").log_hyperparams({"attempt": attempt})
        finish_tracking(failure="killed" if attempt == 0 else None)
    logger(tmp_path / "b").log_hyperparams({})
    finish_tracking()
    first, second = sorted(written(tmp_path / "a"), key=lambda run: run.config["attempt"])
    (other,) = written(tmp_path / "b")
    assert first.run.run_id == second.run.run_id != other.run.run_id
    assert (first.exit_code, second.exit_code) == (1, 0) and first.summary["failure"] == "killed"
    assert logger(tmp_path / "a")._wandb_init["resume"] == "allow"


def test_offline_where_there_is_no_key(tmp_path, monkeypatch):
    host = wandb.Settings().base_url.split("//")[1]

    def mode(**options):
        return logger(tmp_path, **options)._wandb_init["mode"]

    assert not has_api_key() and mode() == "offline" and mode(offline=False) is None
    (tmp_path / "home" / ".netrc").write_text("machine elsewhere.example login user password secret\n")
    assert not has_api_key()
    (tmp_path / "home" / ".netrc").write_text(f"machine {host} login user password {'0' * 40}\n")
    assert has_api_key() and mode() is None and mode(offline=True) == "offline"
    monkeypatch.setenv("NETRC", str(tmp_path / "nowhere"))
    assert not has_api_key()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_api_key()
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode() is None  # as the variable says


def test_the_group_is_the_sweep_and_a_single_run_has_none(tmp_path):
    sweep = tmp_path / "2026-11-21" / "09-30-00"
    (sweep / "3").mkdir(parents=True)
    assert sweep_of(sweep / "3") is None
    (sweep / "multirun.yaml").touch()
    assert sweep_of(sweep / "3") == sweep_of(sweep) == "2026-11-21/09-30-00"


@dataclass
class RemoteRun:
    config: dict
    summary: dict
    url: str = "https://wandb.invalid/e/p/runs/1"
    state: str = "finished"
    job_type: str = "evaluate"


@dataclass
class RemoteApi:
    found: list
    asked: list = field(default_factory=list)

    def runs(self, path, filters):
        self.asked.append((path, filters))
        return self.found


def test_the_table_of_a_group_in_wandb_is_that_of_the_folders(tmp_path):
    remote, rng = [], np.random.default_rng(0)
    for job, (method, seed) in enumerate([("none", 1), ("none", 2), ("ifguide", 1), ("ifguide", 2)]):
        write_run(tmp_path / "sweep" / str(job), method, seed, beta(rng, 0.5), workspace=tmp_path / "workspace")
        (local,) = gather([str(tmp_path / "sweep" / str(job))])
        overrides = [f"{key}={value}" for key, value in local.overrides.items()]
        hydra = {"choices": dict(local.choices), "overrides": overrides}
        summary = {**dict(flattened(local.metrics, "metrics")), "notes": ["its own judge"]}
        remote.append(RemoteRun({**local.config, "hydra": hydra}, summary))
    lost = {"seed": 3, "hydra": {"choices": {"method": "dpo"}, "overrides": ["method=dpo"]}}
    remote += [
        RemoteRun(lost, {"failure": "no memory"}, state="failed"),
        RemoteRun(lost, {"model/train/loss": 2.0}, state="crashed"),
        RemoteRun({}, {}, job_type="report"),
    ]
    api = RemoteApi(remote)
    comparison = compare_rows(gather_from_wandb("e/p/2026-11-21/09-30-00", api))
    assert api.asked == [("e/p", {"group": "2026-11-21/09-30-00"})]
    local = compare_rows(gather([str(tmp_path / "sweep")]))
    assert [row.name for row in comparison.measured] == [row.name for row in local.measured] == ["none", "ifguide"]
    for ours, theirs in zip(local.measured, comparison.measured, strict=True):
        assert theirs.cells[HEADLINE].value == pytest.approx(ours.cells[HEADLINE].value)
    assert all("its own judge" in row.notes for row in comparison.measured)
    assert [row.problem for row in comparison.failed] == ["failed: no memory", "unfinished (crashed in W&B)"]


def test_an_address_that_is_not_complete_or_empty_is_named():
    with pytest.raises(ValueError, match="entity/project/group"):
        gather_from_wandb("project/group", RemoteApi([]))
    with pytest.raises(ValueError, match="no runs in this group"):
        gather_from_wandb("e/p/g", RemoteApi([]))


def _png() -> bytes:
    import io

    from ifguide.report.plots import new_figure

    image = io.BytesIO()
    new_figure(width=1, height=1).savefig(image, format="png")
    return image.getvalue()
