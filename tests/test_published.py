"""What is kept of experiments: pages, results, choices, and the configuration that they are of."""

import json
import re
from pathlib import Path

import pytest
import yaml
from composing import composed
from test_config import check_bound

import ifguide.stages.plan  # every class of a stage
from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.models import ModelSettings
from ifguide.report.choice import TRIES, UNSTEERED
from ifguide.report.experiment import Experiment
from ifguide.stages import rules
from ifguide.stages.generation import Generations
from ifguide.stages.plan import make_plan
from ifguide.stages.stage import Stage

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
TUNINGS = {text: {file.stem: yaml.safe_load(file.read_text())["tuning"]
                  for file in sorted((ROOT / "conf" / "tuning" / text).glob("*.yaml"))}
           for text in ("sample", "real_text")}  # fmt: skip
PAGES = {  # script → its page; results lie beside it
    "attribution_quality/run.py": "README.md",
    "attribution_quality/datamodeling.py": "datamodeling.md",
    "attribution_quality/detoxify.py": "detoxification.md",
    "attribution_quality/direction.py": "direction.md",
    "attribute_control/classification.py": "classification.md",
    "attribute_control/corpus.py": "corpus.md",
    "attribute_control/run.py": "README.md",
    "date_lm/run.py": "README.md",
    "evaluation/run.py": "README.md",
    "gold_standard/run.py": "README.md",
    "influence_over_training/run.py": "README.md",
    "lancet/run.py": "README.md",
    "nonlexical/run.py": "README.md",
    "pretrained/run.py": "README.md",
    "real_text/frontier.py": "frontier.md",
    "real_text/run.py": "README.md",
    "rivals/mask_grid.py": "mask_grid.md",
    "rivals/run.py": "README.md",
    "scaling/run.py": "README.md",
}
ELSEWHERE = {"rivals/run.py": ["other_sources", "real_text"]}  # script → folders with results of other options
WITHOUT_PAGES = {  # helpers, benchmarks, whose output is kept as it is printed, and the README's table
    "benchmarks/shared.py", "benchmarks/amortised.py", "benchmarks/curvature.py",
    "benchmarks/generation.py", "benchmarks/gpu.py", "benchmarks/plan.py", "benchmarks/scoring.py",
    "benchmarks/selection.py", "benchmarks/training.py", "sample/run.py",
}  # fmt: skip
# pages of others were measured before results were kept
PRETRAINED = "ifguide, scores of a small proxy"
WITHOUT_RESULTS = set(PAGES) - {
    "attribute_control/classification.py", "attribute_control/corpus.py", "attribute_control/run.py", "lancet/run.py",
    "real_text/frontier.py", "real_text/run.py",
    "evaluation/run.py", "attribution_quality/datamodeling.py", "attribution_quality/detoxify.py",
    "attribution_quality/direction.py", "attribution_quality/run.py", "date_lm/run.py", "gold_standard/run.py",
    "nonlexical/run.py", "pretrained/run.py", "rivals/mask_grid.py", "rivals/run.py",
    "scaling/run.py",
}  # fmt: skip


@pytest.mark.parametrize("text", TUNINGS)
def test_rivals_begin_with_the_same_number_of_settings(text):
    tunings = TUNINGS[text]
    sweep = yaml.safe_load((ROOT / "conf" / "experiment" / "rivals_base.yaml").read_text())["hydra"]["sweeper"][
        "params"
    ]
    assert set(sweep["method"].split(",")) - set(tunings) == {"none", "token_filter", "token_removal"}
    assert all({"low", "middle", "high"} <= set(one["tried"]) for one in tunings.values())
    assert all(len(set(one["tried"]) - {UNSTEERED}) + len(one.get("also", {})) <= TRIES for one in tunings.values())
    assert all(one["setting"] in one["tried"] and one["setting"] != UNSTEERED for one in tunings.values())
    for method, one in tunings.items():
        cfg = composed(f"tuning={text}", f"method={method}", "tuning.setting=high")
        check_bound(cfg)
        place = cfg
        for key in one["key"].split("."):
            place = place[key]
        assert place == one["tried"]["high"]


@pytest.mark.parametrize("text, page", [("sample", "README.md"), ("real_text", "real_text/README.md")])
def test_the_published_choices_are_those_of_the_configuration(text, page):
    text_of_page = (EXPERIMENTS / "rivals" / page).read_text("utf-8")
    if f"Settings are those of `conf/tuning/{text}`" in text_of_page:
        return  # nothing was chosen
    rows = re.findall(r"^\| (\w+) \| \*\*(\S+)\*\* \|", text_of_page, re.M)
    shown = {method: setting for method, setting in rows if setting != "–"}
    assert len(shown) >= 8
    for method, setting in shown.items():
        tuning = TUNINGS[text][method]
        key, value = setting.split("=")
        assert tuning["key"].split(".", 1)[1] == key
        assert float(tuning["tried"][tuning["setting"]]) == float(value)


@pytest.mark.parametrize("method", ["toxicity_filter", "dpo", "rad", "dexperts", "ifguide"])
def test_the_rivals_take_real_text(method, datasets_folder, tmp_path):
    start = tmp_path / "start"
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ModelSettings(architecture="gpt_neox", settings=shape).build(300, 0).save_pretrained(start)
    make_tokenizer(["a text to learn a tokenizer from"], vocabulary=300).save_pretrained(start)
    overrides = ["+experiment=rivals_real_text", f"start={start}", f"method={method}", f"paths.workspace={tmp_path}/w"]
    plan = make_plan(composed(*overrides, "paths.run=r"))
    plan.check()  # reads queries, pairs, labelled texts and prompts
    rules.check_plan(plan)
    (generated,) = plan.named(Generations).values()
    assert {prompt.subset for prompt in generated.task.prompts} == {"toxic", "nontoxic"}
    assert len(generated.task.prompts) == 200


def test_every_script_has_a_page_or_is_known_to_have_none():
    scripts = {str(path.relative_to(EXPERIMENTS)) for path in EXPERIMENTS.glob("*/*.py")}
    assert scripts == set(PAGES) | WITHOUT_PAGES
    for script, page in PAGES.items():
        folder = (EXPERIMENTS / script).parent
        assert (folder / f"{page}.j2").is_file() and (folder / page).is_file()
        results = Experiment(EXPERIMENTS / script, page=page).results_file
        assert results.is_file() != (script in WITHOUT_RESULTS), f"{script}: take it out of WITHOUT_RESULTS"
    assert sum(len(path.read_text("utf-8").splitlines()) for path in EXPERIMENTS.glob("*/*.py")) <= 2360


def test_the_readme_quotes_the_pretrained_model_as_it_was_measured():
    kept = json.loads((EXPERIMENTS / "pretrained" / "results.json").read_text(encoding="utf-8"))
    none, ours = (kept["figures"][name] for name in ("none", PRETRAINED))
    toxic, benign = (f"{row['toxic fraction ↓']:.3f}"[1:] for row in (none, ours)), "benign perplexity ↓"
    interval = kept["rows"][PRETRAINED]["difference"]["interval"]
    ends = [f"{end:+.3f}".replace("0.", ".").replace("-", "−") for end in interval]
    quoted = f"toxic fraction {' → '.join(toxic)} [{', '.join(ends)}], {benign[:-2]} {none[benign]:.1f} → "
    assert f"{quoted}{ours[benign]:.1f} |" in (ROOT / "README.md").read_text(encoding="utf-8")


def published(script):
    """Results and page of a script, and of what it measured with other options."""
    page = PAGES.get(script, "README.md")
    beside = Experiment(EXPERIMENTS / script, page=page).results_file
    for results in (beside, *(beside.parent / place / beside.name for place in ELSEWHERE.get(script, ()))):
        yield json.loads(results.read_text(encoding="utf-8")), results.with_name(page)


@pytest.mark.parametrize("script", sorted(set(PAGES) - WITHOUT_RESULTS))
def test_a_page_is_what_its_template_makes_of_its_results(script, tmp_path):
    experiment = Experiment(EXPERIMENTS / script, [f"output={tmp_path}"], page=PAGES[script])
    for kept, page in published(script):
        assert experiment.render(kept) == page.read_text(encoding="utf-8")


def every_stage(kind=Stage):
    for child in kind.__subclasses__():
        yield child
        yield from every_stage(child)


@pytest.mark.parametrize("script", [*PAGES, "sample/run.py"])
def test_published_results_come_from_todays_stages(script):
    """A stage whose meaning has changed since makes published numbers old: measure again."""
    if script in WITHOUT_RESULTS:
        pytest.skip("its page was measured before results were kept")
    versions: dict[str, set[int]] = {}
    for stage in every_stage():
        if isinstance(getattr(stage, "name", None), str) and hasattr(stage, "version"):
            versions.setdefault(stage.name, set()).add(stage.version)
    for results, page in published(script):
        kept = results["stages"]
        assert kept and ifguide.stages.plan
        old = {name: version for name, version in kept.items() if version not in versions.get(name, {version})}
        assert not old, f"{page}: made with older versions of stages: {old}"


def test_the_readme_shows_the_table_that_was_kept():
    table = json.loads((EXPERIMENTS / "sample" / "results.json").read_text(encoding="utf-8"))["table"]
    assert table.rstrip() in (ROOT / "README.md").read_text(encoding="utf-8")
