"""The whole method on a few documents, in this process."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from safetensors.numpy import load_file

from ifguide.corpus.masks import TokenMask
from ifguide.influence.scoring import sample_rows
from ifguide.influence.store import open_scores
from ifguide.pipeline import Pipeline
from ifguide.results import write_results
from ifguide.workspace import Artifact, ArtifactError, Workspace

pytest.importorskip("profanity_check")
CONF = Path(__file__).parents[1] / "conf"
TINY = [
    "data.sources.sample.size=150", "data.tokenizer.vocabulary=400", "data.block_length=32", "queries.size=12",
    "evaluation.prompts.size=6", "evaluation.samples=3", "evaluation.max_new_tokens=5", "curvature.blocks=8",
    "model.settings.hidden_size=16", "model.settings.num_hidden_layers=2", "model.settings.intermediate_size=32",
    "proxy.settings.hidden_size=16", "proxy.settings.num_hidden_layers=2", "proxy.settings.intermediate_size=32",
    "optim.epochs=0.5", "proxy_optim.epochs=0.5", "trainer.progress=false", "influence.shard_blocks=100",
    "labelled.size=80", "pairs.size=60",
]  # fmt: skip


AFTER_MODEL = {"model", "generations", "toxicity", "fluency", "perplexity", "evaluation"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pipeline")


def pipeline(folder, *overrides):
    paths = [f"paths.workspace={folder}/workspace", f"paths.run={folder}/run"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return Pipeline(compose("config", overrides=[*TINY, *paths, *overrides]))


@pytest.fixture(scope="module")
def done(folder):
    first = pipeline(folder)
    first.evaluation()
    return first


def test_metrics_have_the_names_of_the_design(done):
    metrics = done.metrics()
    assert set(metrics) == {"toxicity", "perplexity", "attribution", "cost"}
    for task, metric in (("toxicity", "expected_maximum_toxicity"), ("attribution", "roc_auc")):
        assert 0 <= metrics[task]["all"][metric] <= 1
    assert metrics["perplexity"]["benign"]["perplexity"] > 1
    assert {"all", "toxic", "nontoxic"} == set(metrics["toxicity"])
    for task in metrics.values():
        for subset in task.values():
            for name, value in subset.items():
                assert isinstance(value, list) == name.endswith("_interval")


def test_a_second_run_builds_nothing(done, folder, monkeypatch):
    builds = []
    original = Workspace.build

    def spy(self, stage, **options):
        artifact = original(self, stage, **options)
        builds.append((stage, artifact.reused))
        return artifact

    monkeypatch.setattr(Workspace, "build", spy)
    pipeline(folder).evaluation()
    assert len(builds) >= 8 and all(reused for _, reused in builds)


@pytest.mark.parametrize(
    "override, rebuilt",
    [
        ("pooling=type", {"pooled", "mask", "attribution", *AFTER_MODEL}),
        ("objective.penalty=0.5", AFTER_MODEL),
        ("selection.limit=0.005", {"mask", "attribution", *AFTER_MODEL}),
        ("curvature.damping=0.3", {"direction", "scores", "pooled", "mask", "attribution", *AFTER_MODEL}),
        ("decoding.top_p=0.8", {"generations", "toxicity", "fluency", "evaluation"}),
        ("influence.batch_size=7", set()),
        ("trainer.micro_batch_size=8", set()),
        ("paths.verify=true", set()),
    ],
)
def test_a_change_rebuilds_what_depends_on_it_and_nothing_else(done, folder, monkeypatch, override, rebuilt):
    builds = {}
    original = Workspace.build

    def spy(self, stage, **options):
        if stage not in rebuilt:
            options["builder"] = lambda directory: pytest.fail(f"{stage} was built again")
        artifact = original(self, stage, **options)
        builds.setdefault(stage, artifact.reused)
        return artifact

    monkeypatch.setattr(Workspace, "build", spy)
    changed = pipeline(folder, override)
    if "model" in rebuilt:  # the uncensored model is found, the target is not
        changed.mask()
        builds.pop("model")
    changed.evaluation()
    assert {stage for stage, reused in builds.items() if not reused} == rebuilt


def test_the_proxy_is_the_uncensored_model_where_settings_are_equal(done, folder):
    assert pipeline(folder, "method=none").model() == done.proxy()
    assert pipeline(folder, "method=none", "seed=1").model() != done.proxy()
    assert pipeline(folder, "seed=1").mask() == done.mask()


def test_the_mask_joins_its_corpus_only(done, folder):
    mask = done.mask()
    assert pipeline(folder, f"paths.mask={mask.path}").mask() == mask
    with pytest.raises(ArtifactError, match="made for the corpus"):
        pipeline(folder, f"paths.mask={mask.path}", "data.seed=5").mask()
    with pytest.raises(ArtifactError, match="where a `mask` is needed"):
        pipeline(folder, f"paths.mask={done.scores().path}").mask()


def test_selection_reaches_the_limit_or_says_so(done):
    facts = done.mask().manifest["facts"]["behaviours"]["toxicity"]
    assert facts["selected"] == min(facts["wanted"], facts["candidates"]) == done.train_mask().count()


def test_fine_tuning_continues_from_a_model_folder(done, folder):
    start = done.proxy().path
    tuned = pipeline(
        folder, f"model.pretrained={start}", f"proxy.pretrained={start}", "proxy_optim.epochs=0", "optim.epochs=0.25"
    )
    assert np.isfinite(tuned.metrics()["perplexity"]["benign"]["perplexity"])
    assert tuned.model().manifest["facts"]["steps"] > 0 == tuned.proxy().manifest["facts"]["steps"]


def test_results_are_written_where_they_are_said_to_be(done, folder, capsys):
    run = folder / "results"
    run.mkdir()
    write_results(done, pipeline(folder, "method=none"), run, name="ifguide", reference_name="none")
    printed = capsys.readouterr().out
    assert json.loads((run / "metrics.json").read_text()) == done.metrics()
    for name in ("table.md", "report.html", "token_scores-toxicity.png", "tokens-toxicity.html"):
        assert (run / name).stat().st_size > 0
        assert not name.endswith(".html") or str(run / name) in printed
    assert str(done.model().path) in printed and " ifguide " in printed

    class Text(HTMLParser):
        text = ""

        def handle_data(self, data):
            self.text += data

    parser = Text()
    parser.feed((run / "tokens-toxicity.html").read_text())
    assert "sample, record" in parser.text


def test_tasks_classifiers_and_utilities_are_added_and_leave_the_rest_alone(done, folder, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the garden"}\n{"prompt": "a letter"}\n')
    passages = [{"text": f"the cat sat on the mat {i} and saw the garden"} for i in range(5)]
    (tmp_path / "passages.jsonl").write_text("\n".join(map(json.dumps, passages)))
    more = [
        "+evaluation@tasks.letters=local", f"tasks.letters.prompts.files={tmp_path}/prompts.jsonl",
        "tasks.letters.samples=3", "tasks.letters.max_new_tokens=5",
        "+classifier@classifiers.other=profanity_check",
        "+utility@utilities.lambada=lambada", f"utilities.lambada.files={tmp_path}/passages.jsonl",
        f"reference_model={done.proxy().path}",
    ]  # fmt: skip
    both = pipeline(folder, *more)
    metrics = both.metrics()
    names = {"toxicity", "toxicity_other", "letters", "letters_other"}
    assert set(metrics) == {*names, "perplexity", "attribution", "lambada", "cost"}
    for subset, values in done.metrics()["toxicity"].items():
        assert values.items() <= metrics["toxicity"][subset].items()
        assert metrics["toxicity"][subset]["generation_perplexity"] > 1
    assert metrics["letters"]["all"]["prompts"] == 2 and metrics["lambada"]["all"]["passages"] == 5
    assert both.artifacts["generations"] == done.artifacts["generations"] != both.artifacts["generations of letters"]
    for name in names:
        with np.load(both.evaluation().path / f"probabilities-{name}.npz") as scores:
            assert scores["toxicity"].shape == (2 if "letters" in name else 6, 3)
    for measured in done.metrics(), metrics:
        assert all("all" in subsets for subsets in measured.values())


def test_probes_of_the_model_take_the_queries_of_the_run(folder):
    probes = [
        "+utility@utilities.logit_lens=logit_lens", "utilities.logit_lens.log_odds=1",
        "+utility@utilities.suffix_attack=suffix_attack", "utilities.suffix_attack.steps=2",
        "utilities.suffix_attack.candidates=3", "utilities.suffix_attack.limit=2", "method=none", "labelled.size=60",
    ]  # fmt: skip
    metrics = pipeline(folder, *probes).metrics()
    lens, attack = metrics["logit_lens"]["all"], metrics["suffix_attack"]["all"]
    assert 0 < lens["layer_1"] < 1 and lens["layer_2"] == lens["output_probability"] and lens["places"] > 0
    assert attack["pairs"] == 2 and attack["forward_passes"] == 2 + 2 * 4 and 0 <= attack["attack_success"] <= 1


def test_a_classifier_that_is_trained_here_is_an_artifact(done, folder, tmp_path):
    rows = [{"text": f"you {word} {i}", "label": word == "idiot"} for word in ("idiot", "friend") for i in range(40)]
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = f"{{_target_: ifguide.corpus.labelled.LabelledSource, files: {tmp_path}/labelled.jsonl, positive: [true]}}"
    settings = [
        "classifier=trained", "~classifier.texts", f"+classifier.texts.mine={source}", "classifier.buckets=512",
        "classifier.validation=0.3",
    ]  # fmt: skip
    trained = pipeline(folder, *settings)
    assert trained.metrics()["toxicity"]["all"]["toxic_fraction"] >= 0
    facts = trained.classifier and Artifact.open(trained.artifacts["classifier"], verify=True).manifest["facts"]
    assert facts["texts"] == 80 and facts["sources"]["mine"]["roc_auc"] == facts["roc_auc"] > 0.9
    assert trained.artifacts["generations"] == done.artifacts["generations"]
    path = trained.artifacts["classifier"]
    row = pipeline(
        folder, "stage=filtered", "filter=classifier", "classifier@filter.classifier=trained", "filter.threshold=0.99",
        *[setting.replace("classifier.", "filter.classifier.", 1) for setting in settings[1:]],
    )  # fmt: skip
    assert row.document_scores().manifest["inputs"]["classifier"] == path.name.split("-")[1], "a part of its cost"
    assert pipeline(folder, *settings, "classifier.seed=1").classifier.name != trained.classifier.name


def test_a_classifier_that_cannot_be_trained_is_named_before_anything_is_built(tmp_path):
    (tmp_path / "labelled.jsonl").write_text('{"text": "you friend", "label": 0}\n{"text": "you", "label": 0}\n')
    source = f"{{_target_: ifguide.corpus.labelled.LabelledSource, files: {tmp_path}/labelled.jsonl, positive: [1]}}"
    with pytest.raises(ValueError, match=r"texts\.mine: no text is toxic"):
        pipeline(tmp_path, "classifier=trained", "~classifier.texts", f"+classifier.texts.mine={source}").evaluation()
    assert not list((tmp_path / "workspace").glob("*-*"))


@pytest.mark.parametrize(
    "override, message",
    [
        ("+evaluation@tasks.perplexity=sample", "two measurements one name"),
        ("reference_model=./nowhere", "reference_model=./nowhere"),
        ("perplexity_split=train", "known: validation, test"),
        ("stage=everything", "known: data, proxy"),
        ("seed=-1", "^seed=-1: it is a whole number, 0 or more"),
        ("seed=1.5", r"^seed=1\.5: it is"),
        ("proxy.seed=null", r"^proxy\.seed=None: it is"),
        ("data.seed=x", r"^data\.seed=x: it is"),
        ("influence.seed=x", r"^influence\.seed=x: it is"),
        ("influence.layers='['", r"^influence\.layers=\[: not a regular expression"),
        ("influence.last_blocks=0", r"^influence\.last_blocks=0: it is a whole number, 1 or more"),
        ("paths.workspace=null", r"^paths\.workspace=None"),
        ("influence.batch_size=two", r"^influence\.batch_size=two: it is a whole number, 1 or more"),
        ("selection.limit=2", r"selection\.limit=2"),
        ("selection.quantile=1", r"selection\.quantile=1"),
        ("curvature.strategy=newton", "known: ekfac"),
        ("trainer.micro_batch_size=5", "does not divide"),
        ("trainer.validate_every=0", r"trainer\.validate_every=0"),
        ("optim.epochs=0", "0 epochs"),
        ("decoding.top_p=2", r"decoding\.top_p=2"),
    ],
)
def test_mistakes_are_named_before_any_work(folder, override, message):
    with pytest.raises(Exception, match=message) as error:
        pipeline(folder / "untouched", override)
    assert isinstance(error.value, ValueError) or isinstance(error.value.__cause__, ValueError)
    assert not (folder / "untouched").exists()


def test_continuations_as_long_as_the_context_are_refused_before_any_training(done, folder):
    for start in ("null", done.proxy().path):
        with pytest.raises(ValueError, match=r"evaluation\.max_new_tokens=512: .* context of 512 tokens"):
            pipeline(folder, "evaluation.max_new_tokens=512", f"model.pretrained={start}").data()


def test_perplexity_is_of_the_split_that_is_asked_for(done, folder):
    test, again, validation = (
        pipeline(folder, *options)._perplexity()
        for options in ((), ("perplexity_split=test",), ("perplexity_split=validation",))
    )
    assert test.path == again.path == done._perplexity().path != validation.path
    one, other = (json.loads((artifact.path / "metrics.json").read_text())["all"] for artifact in (test, validation))
    assert one["tokens"] != other["tokens"] and one["perplexity"] != other["perplexity"]


def test_a_reference_model_without_a_tokenizer_is_refused_before_any_work(done, folder, tmp_path):
    shutil.copytree(done.proxy().path, tmp_path / "reference", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match=r"reference_model=.*tokenizer cannot be loaded"):
        pipeline(folder, f"reference_model={tmp_path}/reference")


def test_queries_of_one_class_and_shared_prompts_are_refused(folder, tmp_path):
    rows = [{"prompt": f"p{i}", "continuation": " c", "label": "toxic"} for i in range(3)]
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="all toxic"):
        pipeline_without_sizes(folder, "queries=local", f"queries.files={tmp_path}/one.jsonl")
    rows[0]["label"] = "fine"
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="also queries"):
        pipeline_without_sizes(
            folder, "queries=local", f"queries.files={tmp_path}/two.jsonl", "evaluation=local",
            f"evaluation.prompts.files={tmp_path}/two.jsonl",
        )  # fmt: skip


def test_scores_amortised_and_pooled(done, folder):
    few = pipeline(folder, "scorer=amortised", "scorer.share=0.2", "pooling=type_context")
    mask = TokenMask.open(few.mask().path / "mask.npy", 32)
    full, pooled = open_scores(done.scores().path), open_scores(few.pooled().path)
    assert pooled.shape == full.shape == (1, *mask.shape) and mask.count() > 0
    assert few.scores().fingerprint != done.scores().fingerprint
    rows = sample_rows(full.shape[1], round(0.2 * full.shape[1]), 0)
    exact = open_scores(few.artifacts["exact scores"])
    assert np.allclose(exact, full[:, rows], atol=1e-4 * full.std())
    assert (open_scores(pipeline(folder, "pooling=type").pooled().path) != full).any()


def pipeline_without_sizes(folder, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return Pipeline(compose("config", overrides=[f"paths.workspace={folder}/w", f"paths.run={folder}", *overrides]))


def test_two_behaviours_have_a_column_each_and_one_mask(done, folder):
    second = ["+queries@behaviours.second=sample", "behaviours.second.size=8", "behaviours.second.seed=5"]
    both = pipeline(folder, "stage=mask", *second)
    both.mask()
    scores = open_scores(both.scores().path)
    assert scores.shape == (2, *both.corpus.split("train").shape)
    assert np.allclose(scores[0], open_scores(done.scores().path)[0], rtol=1e-4, atol=1e-4 * scores[0].std())
    assert both.scores().manifest["facts"]["behaviours"] == ["toxicity", "second"]
    masks = [both.selection(column).mask[:] for column in open_scores(both.pooled().path)]
    assert (both.train_mask()[:] == masks[0] | masks[1]).all()
    assert (masks[0] == done.train_mask()[:]).all() and (masks[0] != masks[1]).any()


def test_influence_of_some_layers_shares_nothing_but_data_and_proxy(done, folder):
    some = pipeline(folder, "stage=scores", "influence.layers=mlp", "influence.last_blocks=1")
    assert some.scores().path != done.scores().path and some.proxy().path == done.proxy().path
    names = load_file(some.direction().path / "direction.safetensors")
    assert names and all(".1.mlp." in name for name in names)
    with pytest.raises(ValueError, match="query_key_value"):
        pipeline(folder, "stage=factors", "influence.layers=nothing").factors()
