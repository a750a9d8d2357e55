"""Hydra's plugins with the presets in `conf/hydra`, on the smoke size; each skips where its plugin is not installed."""

import json
import re

import pytest
from command_line import SMOKE, run

pytestmark = pytest.mark.slow
PLUGINS = {
    "laptop": "hydra_plugins.hydra_joblib_launcher", "node": "hydra_plugins.hydra_submitit_launcher",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
}  # fmt: skip
TIGHT = {"node": ["hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1"]}


@pytest.mark.parametrize("launcher", ["laptop", "node"])
def test_a_launcher_starts_all_rows(tmp_path, launcher):
    pytest.importorskip(PLUGINS[launcher], reason=f"the plugin of hydra/launcher={launcher} is not installed")
    run(
        tmp_path, "-m", SMOKE, "stage=data", "data.seed=0,1", "hydra.sweep.dir=sweep", f"hydra/launcher={launcher}",
        *TIGHT.get(launcher, []), fresh=True,
    )  # fmt: skip
    rows = [
        json.loads(file.read_text())["artifacts"]["data"] for file in sorted((tmp_path / "sweep").glob("*/run.json"))
    ]
    assert len(rows) == len(set(rows)) == 2


@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_preset_composes_with_its_plugin(tmp_path, launcher):
    pytest.importorskip(PLUGINS[launcher], reason=f"the plugin of hydra/launcher={launcher} is not installed")
    said = run(tmp_path, f"hydra/launcher={launcher}", "--cfg", "hydra", fresh=True).stdout
    assert re.search(r"_target_: hydra_plugins\.\w+\.\w+\.\w*Launcher", said)


def test_a_search_finds_what_is_best_in_one_of_two_objectives(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    run(
        tmp_path, "-m", SMOKE, "+experiment=tune", "curvature=identity", "hydra.sweeper.n_trials=3",
        "hydra.sweeper.sampler.n_startup_trials=2", "hydra.sweep.dir=sweep", fresh=True,
    )  # fmt: skip
    found = (tmp_path / "sweep" / "optimization_results.yaml").read_text(encoding="utf-8")
    metrics = [json.loads(file.read_text()) for file in sorted((tmp_path / "sweep").glob("*/metrics.json"))]
    assert len(metrics) == 3 and "solutions" in found
    values = [float(value) for value in re.findall(r"^\s+- ([\d.e-]+)$", found, re.MULTILINE)]
    measured = {m["toxicity"]["all"]["toxic_fraction"] for m in metrics}
    measured |= {m["perplexity"]["benign"]["perplexity"] for m in metrics}
    assert values and all(any(abs(value - one) < 1e-9 * max(1, one) for one in measured) for value in values)
