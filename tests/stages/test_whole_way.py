"""The whole method on a few documents, in this process."""

import gc
import json
import re
import shutil
import weakref

import numpy as np
import pytest
from datasets import load_from_disk
from rows import Row
from safetensors.numpy import load_file
from torch import nn

from ifguide import masks
from ifguide.corpus.blocks import Corpus
from ifguide.influence.scoring import sample_rows
from ifguide.influence.store import open_scores
from ifguide.workspace import Artifact, ArtifactError

pytest.importorskip("profanity_check")
pytestmark = pytest.mark.slow
AFTER_MODEL = {"model", "generations", "toxicity", "fluency", "perplexity", "evaluation"}
LABELLED = "_target_: ifguide.corpus.labelled.LabelledSource"


@pytest.fixture(scope="module")
def folder(begun):
    return begun()


@pytest.fixture(scope="module")
def done(folder):
    return Row(folder).run()


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


def test_a_second_run_builds_nothing(done, folder):
    again = Row(folder).run()
    assert again.built == [] and len(again.made) >= 8
    assert {role: made.path for role, made in again.made.items()} == {r: made.path for r, made in done.made.items()}


@pytest.mark.parametrize(
    "override, rebuilt",
    [
        ("pooling=type", {"pooled", "mask", "attribution", *AFTER_MODEL}),
        ("objective.penalty=0.5", AFTER_MODEL),
        ("selection.limit=0.005", {"mask", "attribution", *AFTER_MODEL}),
        ("curvature.damping=0.3", {"direction", "scores", "pooled", "mask", "attribution", *AFTER_MODEL}),
        ("decoding.top_p=0.8", {"generations", "toxicity", "fluency", "evaluation"}),
        ("influence.batch_size=7", set()),
        ("influence.shard_blocks=50", set()),
        ("evaluation.batch_size=3", set()),
        ("trainer.micro_batch_size=8", set()),
        ("model.attention=eager", set()),
        ("paths.verify=true", set()),
    ],
)
def test_a_change_rebuilds_what_depends_on_it_and_nothing_else(done, folder, override, rebuilt):
    row = Row(folder, override)
    missing = [stage.name for stage in row.plan.stages if not stage.is_in(row.workspace)]
    assert set(missing) == rebuilt
    if override == "objective.penalty=0.5":
        assert set(row.run().built) == rebuilt


def test_the_proxy_is_the_uncensored_model_where_settings_are_equal(done, folder):
    none = Row(folder, "method=none", "stage=model").run()
    assert none.path("model") == done.path("proxy")
    assert Row(folder, "method=none", "seed=1").plan.roles["model"].fingerprint != done.made["proxy"].fingerprint
    assert Row(folder, "seed=1").plan.roles["mask"].fingerprint == done.made["mask"].fingerprint


def test_the_mask_joins_its_corpus_only(done, folder):
    mask = done.path("mask")
    assert Row(folder, f"paths.mask={mask}", "stage=mask").run().path("mask") == mask
    assert Row(folder, f"paths.mask={mask}").plan.roles["model"].fingerprint == done.made["model"].fingerprint
    with pytest.raises(ArtifactError, match="made for the corpus"):
        Row(folder, f"paths.mask={mask}", "data.seed=5").check()
    with pytest.raises(ArtifactError, match="where a `mask` is needed"):
        Row(folder, f"paths.mask={done.path('scores')}").check()


def test_selection_reaches_the_limit_or_says_so(done):
    facts = done.facts("mask")["behaviours"]["toxicity"]
    assert facts["selected"] == min(facts["wanted"], facts["candidates"]) == done.mask.count()


def test_an_export_is_made_of_what_is_there(done, folder):
    row = Row(folder, "stage=export", "export.unit=document")
    row.run()
    assert row.built == ["export"] and row.facts("export")["selected"] == done.mask.count()
    dataset = load_from_disk(str(row.path("export") / "dataset"))
    assert len(dataset) == len(done.corpus.split("train").documents)
    chosen = [ids for ids, mask in zip(dataset["input_ids"], dataset["mask"], strict=True) if any(mask)]
    documents = [json.loads(line) for line in (row.path("export") / "documents.jsonl").read_text().splitlines()]
    assert 0 < row.facts("export")["documents"] == len(documents) <= len(chosen)
    threshold = done.facts("mask")["behaviours"]["toxicity"]["threshold"]
    assert any(span["scores"]["toxicity"] > threshold for document in documents for span in document["spans"])
    assert Row(folder, "stage=export").plan.roles["export"].fingerprint != row.made["export"].fingerprint
    assert "export" not in done.made
    assert (masks.open(done.path("mask"))[:] == done.mask[:]).all()


def test_fine_tuning_continues_from_a_model_folder(done, folder):
    start = done.path("proxy")
    tuned = Row(
        folder, f"model.pretrained={start}", f"proxy.pretrained={start}", "proxy_optim.epochs=0", "optim.epochs=0.25",
        "stage=model", "curvature=identity",
    ).run()  # fmt: skip
    kept, learned = (tuned.model(role).state_dict() for role in ("proxy", "model"))
    assert all((value == kept[name]).all() for name, value in done.model("proxy").state_dict().items())
    assert all(value.isfinite().all() for value in learned.values())
    assert any((value != kept[name]).any() for name, value in learned.items())
    assert tuned.facts("model")["steps"] > 0 == tuned.facts("proxy")["steps"]


def test_a_run_leaves_what_programs_read(done):
    metrics = done.metrics()
    assert json.loads((done.write() / "metrics.json").read_text()) == metrics
    written = json.loads((done.folder / "run.json").read_text())
    assert written["artifacts"] == {role: str(made.path) for role, made in done.made.items()}
    assert written["generations"] == {"toxicity": "generations.toxicity"} and written["behaviours"] == ["toxicity"]
    assert written["judged"] == {"toxicity": {"task": "toxicity", "classifier": "toxicity"}}
    assert (written["seed"], written["stage"]) == (0, "evaluate")
    facts = {role: done.facts(role) for role in ("factors", "direction.toxicity")}  # so small: both have to warn
    assert written["notes"] == [f"{role}: {one['warnings'][0]}" for role, one in facts.items()]
    for name in ("tokens-toxicity.html", "tokens-toxicity.json", "token_scores-toxicity.png"):
        assert (done.folder / name).stat().st_size > 0
    assert "sample, record" in (done.folder / "tokens-toxicity.html").read_text()


def test_models_are_released_when_a_row_is_done(folder):
    """What a row opens goes with the row: two in a row leave no model behind."""
    gc.collect()
    before = {id(one) for one in gc.get_objects() if isinstance(one, nn.Module)}
    plans = []
    for seed in (5, 6):
        row = Row(folder, f"seed={seed}", "decoding=rad").run()
        plans.append(weakref.ref(row.plan))
        del row
    gc.collect()
    left = [one for one in gc.get_objects() if isinstance(one, nn.Module) and id(one) not in before]
    assert not left and all(plan() is None for plan in plans)


def test_tasks_classifiers_and_utilities_are_added_and_leave_the_rest_alone(done, folder, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the garden"}\n{"prompt": "a letter"}\n')
    passages = [{"text": f"the cat sat on the mat {i} and saw the garden"} for i in range(5)]
    (tmp_path / "passages.jsonl").write_text("\n".join(map(json.dumps, passages)))
    more = [
        "+task@tasks.letters=local", f"tasks.letters.prompts.files={tmp_path}/prompts.jsonl",
        "tasks.letters.samples=3", "tasks.letters.max_new_tokens=5",
        "+classifier@classifiers.other=profanity_check",
        "+utility@utilities.lambada=lambada", f"utilities.lambada.files={tmp_path}/passages.jsonl",
        f"evaluation.reference_model={done.path('proxy')}",
    ]  # fmt: skip
    both = Row(folder, *more)
    metrics = both.metrics()
    names = {"toxicity", "toxicity_other", "letters", "letters_other"}
    assert set(metrics) == {*names, "perplexity", "attribution", "lambada", "cost"}
    for subset, values in done.metrics()["toxicity"].items():
        assert values.items() <= metrics["toxicity"][subset].items()
        assert metrics["toxicity"][subset]["generation_perplexity"] > 1
    assert metrics["letters"]["all"]["prompts"] == 2 and metrics["lambada"]["all"]["passages"] == 5
    assert both.path("generations.toxicity") == done.path("generations.toxicity") != both.path("generations.letters")
    for name in names:
        with np.load(both.path("evaluation") / f"probabilities-{name}.npz") as scores:
            assert scores["toxicity"].shape == (2 if "letters" in name else 6, 3)
    for measured in done.metrics(), metrics:
        assert all("all" in subsets for subsets in measured.values())


def test_probes_of_the_model_take_the_queries_of_the_run(folder):
    probes = [
        "+utility@utilities.logit_lens=logit_lens", "utilities.logit_lens.log_odds=1",
        "+utility@utilities.suffix_attack=suffix_attack", "utilities.suffix_attack.steps=2",
        "utilities.suffix_attack.candidates=3", "utilities.suffix_attack.limit=2", "method=none", "labelled.size=60",
        "+utility@utilities.relearning=relearning", "utilities.relearning.steps=[0,2]",
        "utilities.relearning.task.samples=2", "utilities.relearning.batch_size=3",
    ]  # fmt: skip
    row = Row(folder, *probes)
    metrics = row.metrics()
    lens, attack = metrics["logit_lens"]["all"], metrics["suffix_attack"]["all"]
    assert 0 < lens["layer_1"] < 1 and lens["layer_2"] == lens["output_probability"] and lens["places"] > 0
    assert attack["pairs"] == 2 and attack["forward_passes"] == 2 + 2 * 4 and 0 <= attack["attack_success"] <= 1
    assert metrics["relearning"]["all"]["curve_tokens"] == [0, 2 * 3 * row.cfg.data.block_length]
    made_from = {name: row.made[f"utility.{name}"].manifest["inputs"] for name in ("relearning", "logit_lens")}
    assert row.path("classifier.toxicity").name.endswith(made_from["relearning"].pop("classifier"))
    assert made_from["relearning"].keys() == made_from["logit_lens"].keys() == {"data", "model"}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("judge=nobody", "utilities.relearning.judge=nobody: no classifier is called so; classifiers: toxicity"),
        ("batch_size=0", "utilities.relearning.batch_size=0: it is a whole number, 1 or more"),
        ("steps=[1,2]", "utilities.relearning.steps=[1, 2]: two whole numbers or more that rise from 0"),
    ],
)
def test_relearning_that_cannot_be_measured_is_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Row(
            tmp_path, "+utility@utilities.relearning=relearning", f"utilities.relearning.{wrong}", "method=none"
        ).check()


def test_relearning_that_the_corpus_rules_out_is_refused(done, tmp_path):
    row = Row(tmp_path, "+utility@utilities.relearning=relearning", "utilities.relearning.batch_size=999")
    with pytest.raises(ValueError, match=r"^utilities\.relearning\.batch_size=999: the toxic texts fill \d+ blocks"):
        row.plan.check_corpus(Corpus(done.path("data")))


def trained_classifier(key, files, *more):
    mine = f"{{{LABELLED}, files: {files}, positive: [1]}}"
    return [
        f"classifier@{key}=trained", f"~{key}.texts", f"+{key}.texts.mine={mine}",
        f"{key}.buckets=512", f"{key}.validation=0.3", *more,
    ]  # fmt: skip


def test_a_classifier_that_is_trained_here_is_an_artifact(done, folder, tmp_path):
    rows = [{"text": f"you {w} {i}", "label": int(w == "idiot")} for w in ("idiot", "friend") for i in range(40)]
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, rows)))
    key, files = "classifiers.toxicity", tmp_path / "labelled.jsonl"
    trained = Row(folder, *trained_classifier(key, files))
    assert trained.metrics()["toxicity"]["all"]["toxic_fraction"] >= 0
    facts = Artifact.open(trained.path("classifier.toxicity"), verify=True).manifest["facts"]
    assert facts["texts"] == 80 and facts["sources"]["mine"]["roc_auc"] == facts["roc_auc"] > 0.9
    assert trained.path("generations.toxicity") == done.path("generations.toxicity")
    row = Row(
        folder, "stage=filtered", "filter=classifier", "filter.threshold=0.99",
        *trained_classifier("filter.classifier", files),
    ).run()  # fmt: skip
    judged = row.made["document_scores"].manifest["inputs"]
    assert judged["classifier"] == trained.made["classifier.toxicity"].fingerprint, "a part of its cost"
    other = Row(folder, *trained_classifier(key, files, f"{key}.seed=1")).plan.roles["classifier.toxicity"]
    assert other.fingerprint != trained.made["classifier.toxicity"].fingerprint


def test_a_classifier_that_cannot_be_trained_is_named_before_anything_is_trained(tmp_path):
    (tmp_path / "labelled.jsonl").write_text('{"text": "you friend", "label": 0}\n{"text": "you", "label": 0}\n')
    with pytest.raises(ValueError, match=r"^classifiers\.toxicity\.texts\.mine\.positive=\[1\]: no `label`"):
        Row(tmp_path, *trained_classifier("classifiers.toxicity", tmp_path / "labelled.jsonl")).run()
    assert {path.name.split("-")[0] for path in (tmp_path / "workspace").glob("*-*")} <= {"data"}


@pytest.mark.parametrize(
    "override, message",
    [
        ("+task@tasks.perplexity=sample", "two measurements one name"),
        ("evaluation.reference_model=./nowhere", r"^evaluation\.reference_model=./nowhere"),
        ("evaluation.perplexity_split=train", r"^evaluation\.perplexity_split=train: known: validation, test"),
        ("stage=everything", "known: data, proxy"),
        ("model.pretrained=./nowhere", r"^model\.pretrained=\./nowhere: .*not a Hugging Face model folder"),
        ("data.tokenizer.path=/nowhere", r"^data\.tokenizer\.path=/nowhere: no such file or folder"),
        ("trainer.precision=7", r"^trainer.*precision"),
        ("optim.epochs=two", r"^optim\.epochs=two: it is a number"),
        ("seed=-1", r"^(model\.)?seed=-1: it is a whole number from 0"),
        ("seed=1.5", r"^(model.)?seed=1\.5: it is"),
        ("proxy.seed=null", r"^proxy\.seed=None: it is"),
        ("data.seed=x", r"^data\.seed=x: it is"),
        ("influence.seed=x", r"^influence\.seed=x: it is"),
        ("influence.layers='['", r"^influence\.layers=\[: not a regular expression"),
        ("influence.last_blocks=0", r"^influence\.last_blocks=0: it is a whole number, 1 or more"),
        ("paths.workspace=null", r"^paths\.workspace=None"),
        ("influence.batch_size=two", r"^influence\.batch_size=two: it is a whole number, 1 or more"),
        ("selection.limit=2", r"^selection\.limit=2"),
        ("selection.quantile=1", r"^selection\.quantile=1"),
        ("curvature.strategy=newton", r"^curvature\.strategy=newton; known: ekfac"),
        ("trainer.micro_batch_size=5", r"^(proxy_)?optim\.batch_size=16 does not divide"),
        ("trainer.validate_every=0", r"^trainer\.validate_every=0"),
        ("optim.epochs=0", r"^optim\.epochs=0"),
        ("proxy_optim.learning_rate=-1", r"^proxy_optim\.learning_rate=-1"),
        ("tasks.toxicity.samples=0", r"^tasks\.toxicity\.samples=0"),
        ("classifier@classifiers.toxicity=trained classifiers.toxicity.width=0", r"^classifiers\.toxicity"),
        ("decoding.top_p=2", r"^decoding\.top_p=2"),
        ("scorer=finite_difference influence.dtype=bfloat16", r"^influence\.dtype=bfloat16: FiniteDifference takes"),
        ("method=rad decoding.reward.optim.learning_rate=-1", r"^decoding\.reward\.optim\.learning_rate=-1"),
        ("callbacks=influence callbacks.influence.blocks=0", r"^callbacks\.influence\.blocks=0"),
        (
            "callbacks=influence trainer=fsdp_cpu",
            r"^trainer\.strategy=fsdp: callbacks\.influence reads the whole model while it is trained; use ddp$",
        ),
    ],
)
def test_mistakes_are_named_as_they_were_typed_before_any_work(folder, override, message):
    with pytest.raises(ValueError, match=message):
        Row(folder / "untouched", *override.split()).check()
    assert not (folder / "untouched").exists()


def test_continuations_as_long_as_the_context_are_refused_before_any_training(done, folder):
    for start in ("null", done.path("proxy")):
        row = Row(folder, "tasks.toxicity.max_new_tokens=512", f"model.pretrained={start}")
        with pytest.raises(ValueError, match=r"^tasks\.toxicity\.max_new_tokens=512: .* context of 512 tokens"):
            row.run()
        assert set(row.made) <= {"data", "classifier.toxicity"}


def test_perplexity_is_of_the_split_that_is_asked_for(done, folder):
    test, validation = (
        Row(folder, f"evaluation.perplexity_split={split}").run().path("perplexity") for split in ("test", "validation")
    )
    assert test == done.path("perplexity") != validation
    one, other = (json.loads((path / "metrics.json").read_text())["all"] for path in (test, validation))
    assert one["tokens"] != other["tokens"] and one["perplexity"] != other["perplexity"]


def test_a_reference_model_without_a_tokenizer_is_refused_before_any_work(done, folder, tmp_path):
    shutil.copytree(done.path("proxy"), tmp_path / "reference", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match=r"^evaluation\.reference_model=.*tokenizer cannot be loaded"):
        Row(folder, f"evaluation.reference_model={tmp_path}/reference").check()


def test_queries_of_one_class_and_shared_prompts_are_refused(folder, tmp_path):
    queries = "queries@behaviours.toxicity=local"
    rows = [{"prompt": f"p{i}", "continuation": " c", "label": "toxic"} for i in range(3)]
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"^behaviours\.toxicity: all 3 show the behaviour \(labels: toxic\)"):
        Row(folder, queries, f"behaviours.toxicity.files={tmp_path}/one.jsonl", small=False).check()
    rows[0]["label"] = "fine"
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="also queries"):
        Row(
            folder, queries, f"behaviours.toxicity.files={tmp_path}/two.jsonl", "task@tasks.toxicity=local",
            f"tasks.toxicity.prompts.files={tmp_path}/two.jsonl", small=False,
        ).check()  # fmt: skip


def test_amortised_scores_are_of_all_blocks_and_can_be_pooled(done, folder):
    few = Row(folder, "student=words", "student.share=0.2", "pooling=type_context", "stage=mask").run()
    full, pooled = open_scores(done.path("scores")), open_scores(few.path("pooled"))
    assert pooled.shape == full.shape == (1, *few.mask.shape) and few.mask.count() > 0
    assert few.made["scores"].fingerprint != done.made["scores"].fingerprint
    rows = sample_rows(full.shape[1], round(0.2 * full.shape[1]), 0)
    exact = open_scores(few.path("exact_scores"))
    assert np.allclose(exact, full[:, rows], atol=1e-4 * full.std())


def test_a_direction_in_bfloat16_that_was_asked_for_is_another_one(folder):
    """One that `auto` rounds agrees with float32, and is found as that."""
    auto, exact, asked = (
        Row(folder, "stage=direction", f"influence.dtype={dtype}").plan.roles["direction.toxicity"].fingerprint
        for dtype in ("auto", "float32", "bfloat16")
    )
    assert auto == exact != asked


def test_two_behaviours_have_a_column_each_and_one_mask(done, folder):
    second = ["+queries@behaviours.second=sample", "behaviours.second.size=8", "behaviours.second.seed=5"]
    with pytest.raises(ValueError, match=r"behaviours\.second: no classifier is called so"):
        Row(folder, *second)
    both = Row(folder, *second, "+classifier@classifiers.second=profanity_check")
    metrics = both.metrics()
    scores = open_scores(both.path("scores"))
    assert scores.shape == (2, *both.corpus.split("train").shape)
    assert np.allclose(scores[0], open_scores(done.path("scores"))[0], rtol=1e-4, atol=1e-4 * scores[0].std())
    assert both.facts("scores")["behaviours"] == ["toxicity", "second"]
    selection = both.plan.roles["mask"].selection
    masks = [selection(column).mask[:] for column in open_scores(both.path("pooled"))]
    assert (both.mask[:] == masks[0] | masks[1]).all()
    assert (masks[0] == done.mask[:]).all() and (masks[0] != masks[1]).any()
    assert 0 <= metrics["attribution"]["all"]["roc_auc"] <= 1
    assert "attribution_second" not in metrics, "spans are of the first behaviour"
    for name in ("toxicity", "second"):
        assert (both.write() / f"tokens-{name}.html").stat().st_size > 0


def test_influence_of_some_layers_shares_nothing_but_data_and_proxy(done, folder):
    some = Row(folder, "stage=scores", "influence.layers=mlp", "influence.last_blocks=1").run()
    assert some.path("scores") != done.path("scores") and some.path("proxy") == done.path("proxy")
    names = load_file(some.path("direction.toxicity") / "direction.safetensors")
    assert names and all(".1.mlp." in name for name in names)
    with pytest.raises(ValueError, match="query_key_value"):
        Row(folder, "stage=factors", "influence.layers=nothing").run()
