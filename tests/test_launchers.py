"""Hydra's plugins with the presets in `conf/hydra`, on the smoke size; each skips where its plugin is not installed."""

import json
import re

import pytest
from command_line import SMOKE, run
from composing import CONF, quickly
from hydra import compose, initialize_config_dir

pytestmark = pytest.mark.slow
PLUGINS = {
    "laptop": "hydra_plugins.hydra_joblib_launcher", "node": "hydra_plugins.hydra_submitit_launcher",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
}  # fmt: skip
TIGHT = {"node": ["hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1"]}


@pytest.mark.parametrize("launcher, seeds", [("laptop", "0,1"), ("node", "0")])
def test_a_launcher_starts_all_rows(tmp_path, launcher, seeds):
    """Each in an interpreter of its own, which imports everything; joblib's are told which script started them."""
    pytest.importorskip(PLUGINS[launcher], reason=f"the plugin of hydra/launcher={launcher} is not installed")
    run(
        tmp_path, "-m", SMOKE, "stage=data", f"data.seed={seeds}", "hydra.sweep.dir=sweep",
        f"hydra/launcher={launcher}", *TIGHT.get(launcher, []), fresh=launcher == "laptop",
    )  # fmt: skip
    rows = [
        json.loads(file.read_text())["artifacts"]["data"] for file in sorted((tmp_path / "sweep").glob("*/run.json"))
    ]
    assert len(rows) == len(set(rows)) == len(seeds.split(","))


@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_preset_composes_with_its_plugin(launcher):
    pytest.importorskip(PLUGINS[launcher], reason=f"the plugin of hydra/launcher={launcher} is not installed")
    with initialize_config_dir(str(CONF), version_base="1.3"), quickly():
        cfg = compose("config", overrides=[f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert re.fullmatch(r"hydra_plugins\.\w+\.\w+\.\w*Launcher", cfg.hydra.launcher["_target_"])


def test_a_search_finds_what_is_best_in_one_of_two_objectives(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    run(
        tmp_path, "-m", SMOKE, "+experiment=tune", "curvature=identity", "hydra.sweeper.n_trials=3",
        "hydra.sweeper.sampler.n_startup_trials=2", "hydra.sweep.dir=sweep",
    )  # fmt: skip
    found = (tmp_path / "sweep" / "optimization_results.yaml").read_text(encoding="utf-8")
    metrics = [json.loads(file.read_text()) for file in sorted((tmp_path / "sweep").glob("*/metrics.json"))]
    assert len(metrics) == 3 and "solutions" in found
    values = [float(value) for value in re.findall(r"^\s+- ([\d.e-]+)$", found, re.MULTILINE)]
    measured = {m["toxicity"]["all"]["toxic_fraction"] for m in metrics}
    measured |= {m["perplexity"]["benign"]["perplexity"] for m in metrics}
    assert values and all(any(abs(value - one) < 1e-9 * max(1, one) for one in measured) for value in values)
