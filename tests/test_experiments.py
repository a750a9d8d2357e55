"""Experiments that are small enough to be run; what is kept is in tests/test_published.py."""

import importlib.util
import json
import logging
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from command_line import run_here
from composing import composed
from tiny import tiny_tokenizer

from ifguide.corpus import masks
from ifguide.corpus.answered import AnsweredSource
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import CorpusSettings
from ifguide.corpus.documents import LabelledText
from ifguide.report import experiment
from ifguide.report.experiment import Experiment
from ifguide.stages import commands
from ifguide.stages.data import Data
from ifguide.statistics import intervals, ranks
from ifguide.workspace import Workspace

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Runs a script and its sweeps in this process, with few resamples, and returns the JSON of its last line."""

    def sweep(command, env, *, cwd):
        assert command[:2] == [sys.executable, "run.py"]
        return run_here(cwd, *command[2:])

    def script(path, *arguments):
        for module in (intervals, ranks):
            monkeypatch.setattr(module, "RESAMPLES", 50)
        monkeypatch.setattr(commands, "write_tokens", lambda *_: None)  # which no experiment reads
        monkeypatch.setattr(experiment, "run_through", sweep)
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        monkeypatch.syspath_prepend(str((ROOT / path).parent))
        runpy.run_path(str(ROOT / path), run_name="__main__")
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    level = logging.root.level
    yield script
    logging.root.setLevel(level)  # kronfluence sets it


def test_attribution_quality_on_the_sample(tmp_path, run_script):
    pytest.importorskip("profanity_check")
    rows = run_script(
        "experiments/attribution_quality/run.py", "size=sample", f"output={tmp_path}", f"runs={tmp_path}/runs",
        f"paths.workspace={tmp_path}/workspace", "data.sources.sample.size=300", "curvature.blocks=16",
        "behaviours.toxicity.size=150",
        "trainer.progress=false", "proxy.settings.hidden_size=64", "proxy.settings.num_hidden_layers=2",
    )  # fmt: skip
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert len(rows) == 4 + 9 + 1  # variants, rivals, and the name of the best
    for name, row in rows.items():
        if name != "best":
            assert name in text and 0 <= row["roc_auc_interval"][0] <= row["roc_auc"] <= 1
    assert rows["exact (`jvp`)"]["roc_auc"] > 0.75, "scores on the sample find the planted insults"
    for figure in ("precision_recall", "mask_overlap", "cost"):
        assert f"({figure}.png)" in text and (tmp_path / f"{figure}.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "results.json").read_text())["stages"]["baseline"] == 2


def test_directions_on_a_tiny_sample(tmp_path, run_script, begun):
    pytest.importorskip("profanity_check")
    names = ["EK-FAC", "refined, δ = 1, 64 blocks"]
    figures = run_script(
        "experiments/attribution_quality/direction.py", "sizes=sample", "+debug=smoke", f"names={';'.join(names)}",
        "seeds=1", f"output={tmp_path}", f"runs={tmp_path}/runs", f"paths.workspace={begun()}/workspace",
    )  # fmt: skip
    text = (tmp_path / "direction.md").read_text(encoding="utf-8")
    assert list(figures["sample"]) == names and all(f"| {name} | " in text for name in names)
    kept = json.loads((tmp_path / "direction.json").read_text())
    part = kept["parts"]["sample"]
    refined, plain = (part["rows"][name] for name in reversed(names))
    assert refined["steps"] > 3 and refined["residuals"][1] < refined["residuals"][0] and plain["residuals"] is None
    assert plain["alone"]["qld"]["ratio"] == 1 and refined["alone"]["qld"]["value"] != plain["alone"]["qld"]["value"]
    assert kept["stages"]["refined_direction"] == 1 and part["queries"]["measured"] > 0


SMALL = (
    "data.sources.sample.size=200", "data.tokenizer.vocabulary=400", "data.block_length=32", "curvature.blocks=8",
    "behaviours.toxicity.size=20", "proxy.settings.hidden_size=16", "proxy.settings.num_hidden_layers=1",
    "proxy.settings.intermediate_size=32", "trainer.progress=false", "proxy_optim.epochs=0.5",
)  # fmt: skip


def test_a_behaviour_without_words_on_a_tiny_sample(tmp_path, run_script):
    rows = run_script(
        "experiments/nonlexical/run.py", *SMALL, "data.block_length=96", f"output={tmp_path}", f"runs={tmp_path}/runs",
        f"paths.workspace={tmp_path}/w",
    )  # fmt: skip
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert len(rows) == 5 + 5 and all(f"| {name} |" in text for name in rows)
    for name in ("BM25", "word list: log-odds between queries"):
        assert rows[name]["roc_auc"] == 0.5, "twins have the same words"
    assert (
        "- By ROC AUC, as good as scores exact (`jvp`) or better: " in text
        and "| amortised from 10 %, words | " in text
    )


def test_the_gold_standard_on_a_tiny_sample(tmp_path, run_script):
    rows = run_script(
        "experiments/gold_standard/run.py", *SMALL, f"output={tmp_path}", f"runs={tmp_path}/runs", "random=1",
        "dampings=1", f"paths.workspace={tmp_path}/w",
    )  # fmt: skip
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    gold = rows["metagradient"]
    assert gold["spearman"] == pytest.approx(1) and gold["overlap"] > 0.99 and len(rows) == 3 + 6 + 2
    assert gold["contrast"] > 0 and rows["metagradient of the toxic loss alone"]["toxic"] > 0
    assert "- exact (`jvp`), refined, δ = 1: correlation with the metagradient " in text
    assert all(f"| {name} |" in text for name in rows)


def test_records_of_date_lm_on_a_tiny_stand_in(tmp_path, run_script):
    pytest.importorskip("profanity_check")
    (tmp_path / "records").mkdir()
    for name, count in (("train", 60), ("ref", 3)):
        rows = [
            {"prompt": f"Write {n} words.", "type": "Unsafe" if n % 15 == 0 or name == "ref" else "Benign",
             "response": f"you rude fool {n}" if n % 15 == 0 or name == "ref" else f"the clerk says {n} words"}
            for n in range(count)
        ]  # fmt: skip
        (tmp_path / "records" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    rows = run_script(
        "experiments/date_lm/run.py", f"records={tmp_path}/records", "+debug=small", "data.tokenizer.vocabulary=300",
        f"output={tmp_path}", f"runs={tmp_path}/runs", f"paths.workspace={tmp_path}/w",
    )  # fmt: skip
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert len(rows) == 2 * (3 + 1 + 5) + 2 and all(f"| {name} |" in text for name in rows)
    scores = [torch.load(tmp_path / "runs" / "scores" / f"{n}.pt", weights_only=True) for n in range(len(rows))]
    for one, row in zip(scores, rows.values(), strict=True):
        low, high = row["interval"]
        assert 0 < low <= high < 1 + 1e-9 and 0 < row["auprc"] < 1 + 1e-9 and row["alike"] is None
        assert one.shape == (60,) and bool(one.isfinite().all())
    sums = dict(zip(rows, scores, strict=True))
    for other in ("EK-FAC, mean", "EK-FAC, refined by CG, sum", "no curvature, sum"):
        assert not torch.allclose(sums["EK-FAC, sum"], sums[other], rtol=1e-3), other
    assert "56 Benign, 4 Unsafe and 3 references" in text


def test_rivals_on_a_tiny_sample(tmp_path, run_script, begun):
    pytest.importorskip("profanity_check")
    places = [f"output={tmp_path}", f"runs={tmp_path}/runs", f"paths.workspace={begun()}/workspace"]
    rows = run_script(
        "experiments/rivals/run.py",
        "+debug=smoke",
        "labelled=sample",
        "pairs=sample",
        "sweep=false",
        "methods=toxicity_filter,dexperts",
        "seeds=1,2",
        "repeated=dexperts",
        *places,
    )
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (
        list(rows) == ["none", "toxicity_filter", "dexperts"] and "Settings are those of `conf/tuning/sample`" in text
    )
    assert "benign perplexity ↓" in rows["none"] and "benign perplexity ↓" not in rows["dexperts"]
    assert all(row["perplexity of generations"] > 1 and row["seconds"] > 0 for row in rows.values())
    assert re.search(r"\n\| dexperts [^|]+ \| +2 \|", text) and re.search(r"\n\| toxicity_filter [^|]+ \| +1 \|", text)
    assert "model seeds 1, 2 (of methods other than none, dexperts: 1)" in text and "- dexperts: " in text
    assert "Distinct-2 of generations: none " in text
    assert "## How deep it goes" in text and re.search(r"\n\| toxicity_filter \| [\d,]+ \| [\d,]+ \|\n", text)
    for figure in ("frontier", "frontier_generations", "relearning"):
        assert f"({figure}.png)" in text and (tmp_path / f"{figure}.png").stat().st_size > 5_000
    assert (tmp_path / "runs" / "report" / "report.html").is_file()


def test_methods_without_settings_are_tried_once(monkeypatch):
    """The validation sweep has three settings by default: what has none would run three times."""
    script = EXPERIMENTS / "rivals" / "run.py"
    spec = importlib.util.spec_from_file_location("rivals_script", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asked = {}

    def launch(experiment, part, common, settings):
        asked.update(settings)
        raise InterruptedError

    monkeypatch.setattr(module, "launch", launch)
    tunings = {"rad": {"key": "decoding.beta", "tried": {"low": 1, "high": 2}}}
    with pytest.raises(InterruptedError):
        module.search(Experiment(script), [], tunings, ["none", "rad"])
    assert asked == {"none": ["tuning.setting=null"], "rad": ["tuning.setting=low,high"]}


def test_benchmarks_of_a_gpu_can_be_tried_without_one(tmp_path, run_script, monkeypatch):
    script = "experiments/benchmarks/gpu.py"
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "benchmarks"))
    shared = importlib.import_module("shared")
    monkeypatch.setattr(shared, "VOCABULARY", 512)
    monkeypatch.setattr(shared, "apart", lambda call, *given: 1.0 if "kronfluence" in given else call(*given))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("IFGUIDE_DATASETS", raising=False)
    with pytest.raises(SystemExit, match=r"^error: device=cuda: torch sees no GPU here[^\n]*$"):
        run_script(script, f"output={tmp_path / 'none.md'}")
    figures = run_script(script, "device=cpu", "models=tiny", f"output={tmp_path / 'page.md'}")
    scoring, generation, training = figures.values()
    assert scoring["correlation"] > 0.99 and scoring["throughput_ratio"] > 0
    assert training["training_ratio_tiny"] > 0 and training["training_over_trainer_ratio_tiny"] > 0
    assert generation["TINY_ratio"] > 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert re.findall(r"^`python experiments/benchmarks/(\w+)\.py", page, re.M) == ["scoring", "generation", "training"]
    assert "| tiny | 32 | fused |" in page and not (tmp_path / "none.md").exists()


def test_a_rate_is_never_of_a_time_that_noise_made_negative(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["scoring.py"])
    scoring = importlib.import_module("scoring")
    sizes, times = [], iter([1.0, 2.5, 2.0, 1.0])  # all blocks, one batch; twice the blocks, one batch

    def timed(call):
        call()
        return next(times)

    monkeypatch.setattr(scoring, "seconds", timed)
    rate = scoring.rate(lambda blocks, batch: sizes.append(len(blocks)), torch.zeros(3, 8), 1)
    assert rate == (6 - 1) * 8 / (2.0 - 1.0) and sizes == [3, 1, 6, 1]


def test_the_frontier_on_a_tiny_sample(tmp_path, run_script, begun):
    pytest.importorskip("profanity_check")
    found = run_script(
        "experiments/real_text/frontier.py", "size=sample", "+debug=smoke", "limits=0.02,0.1", "penalties=0.5",
        "seeds=1", f"output={tmp_path}", f"runs={tmp_path}/runs", f"paths.workspace={begun()}/workspace",
    )  # fmt: skip
    assert [(one["limit"], one["penalty"]) for one in found["points"]] == [(0.02, "0.5"), (0.1, "0.5")]
    assert found["best"] in found["points"]
    text = (tmp_path / "frontier.md").read_text(encoding="utf-8")
    assert "| 2% | 0.5 | " in text and "| ifguide " in text and (tmp_path / "frontier.png").is_file()


def test_only_answers_are_learned(tmp_path):
    """The mask of the row that learns nothing but answers, and the settings of all rows."""
    texts = [LabelledText(f"{n} you are a{' fool' * (n % 2)} and so on", n % 2) for n in range(60)]
    source = AnsweredSource(texts=texts, question=" toxic?")
    corpus = CorpusSettings(sources={"answered": source}, tokenizer=tiny_tokenizer, block_length=16)
    data = Data(corpus=corpus).make(Workspace(tmp_path), {})
    script = runpy.run_path(str(EXPERIMENTS / "attribute_control" / "classification.py"))
    split = Corpus(data.path).split("train")
    mask, answers = masks.open(script["all_but_answers"](data.path))[:], split.annotation[:]
    assert answers.any() and not (mask & answers).any() and not mask[:, 0].any()
    assert (mask | answers)[:, 1:].all()
    for method in ("none", "attribute_control", "token_filter"):
        cfg = composed("+experiment=answers", "start=/a", "tokenizer=/b", f"method={method}")
        assert cfg.model.pretrained == "/a" and cfg.data.tokenizer.path == "/b" and "answers" in cfg.utilities
