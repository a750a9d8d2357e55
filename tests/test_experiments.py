"""Experiments that are small enough to be run on the built-in sample."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose as compose_config
from hydra import initialize_config_dir
from ifguide.pipeline import Pipeline
from run_folders import write_run

from ifguide.report.gather import gather
from ifguide.report.rows import compare_rows

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
    places = [f"output={tmp_path}", f"runs={tmp_path}/runs", f"paths.workspace={tmp_path}/w"]
    options = ["size=tiny", "sweep=false", "methods=dexperts", *places]
    done = subprocess.run(
        [sys.executable, "experiments/rivals/run.py", *options], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert list(rows) == ["none", "dexperts"] and "Settings are the defaults" in text
    assert "benign perplexity ↓" in rows["none"] and "benign perplexity ↓" not in rows["dexperts"]
    assert all(row["perplexity of generations"] > 1 and row["seconds"] > 0 for row in rows.values())
    assert "| dexperts ¹ " in text and "- dexperts: " in text and "Distinct-2 of generations: none " in text
    for figure in ("frontier", "frontier_generations"):
        assert f"({figure}.png)" in text and (tmp_path / f"{figure}.png").stat().st_size > 5_000
    assert (tmp_path / "runs" / "report" / "report.html").is_file()


@pytest.fixture
def rivals(monkeypatch):
    """The modules beside experiments/rivals/run.py."""
    monkeypatch.syspath_prepend(ROOT / "experiments" / "rivals")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in ("choice", "findings", "sizes")})


def test_the_least_toxic_of_the_fluent_settings_is_chosen(rivals):
    def tried(toxic, ratio, problem=None):
        return rivals.choice.Tried((f"x.y={toxic}",), toxic, ratio, 0.5, problem)

    fluent, toxic, garbled = tried(0.1, 1.02), tried(0.2, 0.9), tried(0.0, 1.5)
    failed = tried(float("nan"), float("nan"), "failed: it\ndiverged")
    assert rivals.choice.choose([failed, toxic, fluent, garbled]) == fluent
    assert rivals.choice.choose([garbled, tried(0.3, 1.2)]).ratio == 1.2, "the most fluent where none is fluent"
    with pytest.raises(SystemExit, match="diverged"):
        rivals.choice.choose([failed])
    table = rivals.choice.sweep_table({"npo": [fluent, failed]}, {"npo": fluent})
    assert "| npo | **y=0.1** | 0.100 | 1.020 | 0.500 |" in table and "failed: it diverged" in table
    assert rivals.choice.beyond({"npo": fluent}) == "" and "rad (+50.0%)" in rivals.choice.beyond({"rad": garbled})


def test_a_decoder_that_truncates_is_compared_with_itself(rivals):
    """Fewer tokens to sample from lower the perplexity of what is written, whether or not anything steers."""

    def run(beta, toxic, written):
        measured = {"toxic_fraction": toxic, "generation_perplexity": written, "distinct_2": 0.9}
        return SimpleNamespace(overrides={"decoding.beta": beta}, metrics={"toxicity": {"all": measured}}, problem=None)

    grid = rivals.sizes.GRIDS["rad"]
    runs = [run("0", 0.1, 30.0), run("1", 0.09, 30.3), run("10", 0.02, 36.0)]
    tried = rivals.choice.try_settings(grid, runs, (90.0, 93.0), rivals.sizes.UNSTEERED["rad"])
    assert [round(one.ratio, 2) for one in tried] == [1.0, 1.01, 1.2]
    assert rivals.choice.choose(tried).setting == ("decoding.beta=1",)
    plain = rivals.choice.try_settings(grid, runs, (90.0, 93.0))
    assert rivals.choice.choose(plain).setting == ("decoding.beta=10",)


def test_rivals_have_the_same_number_of_settings_to_try(rivals):
    for size in rivals.sizes.SIZES.values():
        grids = {**rivals.sizes.GRIDS, **size.grids}
        counts = {name: len(grid[0].split("=")[1].split(",")) - (name in rivals.sizes.UNSTEERED)
                  for name, grid in grids.items() if grid}  # fmt: skip
        assert set(counts.values()) == {3} and set(grids) - set(counts) == {"none", "token_filter"}


def test_findings_say_where_ifguide_loses(rivals, tmp_path):
    toxic = {"none": 0.5, "ifguide": 0.3, "better": 0.1, "dull": 0.2, "worse": 0.45, "same": 0.3}
    perplexity = {"dull": 20.0}
    rng = np.random.default_rng(0)
    for name, share in toxic.items():
        for seed in (1, 2):
            values = (rng.random((60, 25)) < share) * 0.9
            if name == "same":
                values = np.roll(values, 1, axis=0)
            write_run(
                tmp_path / name / str(seed), name, seed, values, workspace=tmp_path / "w",
                perplexity=perplexity.get(name, 10.0),
            )  # fmt: skip
    runs = gather([str(tmp_path)])
    none = rivals.findings.against_none(compare_rows(runs, reference="none", by=["method"]))
    assert none.count("which excludes 0") == 5 and "- better: −0." in none
    loses, wins = rivals.findings.against_ifguide(compare_rows(runs, reference="ifguide", by=["method"]), {}).split(
        "**Where it wins.**"
    )
    lower, dearer, cheaper = loses.strip().split("\n\n")
    assert "better (−0." in lower and "dull" not in lower and "dull (−0." in dearer and "+100.0%" in dearer
    assert (
        "none" in wins and "worse" in wins and "better" not in wins and cheaper == "At most 0.5 of its seconds: no row."
    )
    with pytest.raises(SystemExit, match="validation prompts are test prompts too"):
        rivals.choice.check_apart(runs[:1], runs[1:2])


@pytest.mark.parametrize("method", ["toxicity_filter", "dpo", "rad", "dexperts", "ifguide"])
def test_the_rivals_take_real_text(rivals, method, datasets_folder, tmp_path):
    size = rivals.sizes.SIZES["real_text"]
    fixed = [*size.every, *size.tune, *size.prompts[1], *size.methods.get(method, ()), f"method={method}"]
    grid = [option.split(",")[0] for option in {**rivals.sizes.GRIDS, **size.grids}[method]]
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "config.json").write_text("{}")
    start = [option.replace(rivals.sizes.START, str(tmp_path / "start")) for option in fixed]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose_config("config", overrides=[*start, *grid, f"paths.workspace={tmp_path}/w", "paths.run=r"])
    pipeline = Pipeline(cfg)  # reads queries, pairs, labelled texts and prompts, and checks them
    assert {prompt.subset for prompt in pipeline.tasks["toxicity"].prompts} == {"toxic", "nontoxic"}
    assert len(pipeline.tasks["toxicity"].prompts) == 200
