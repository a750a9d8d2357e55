"""Methods beside IF-Guide that need models of their own: what they build, share and leave alone."""

import json

import numpy as np
import pytest
from rows import Row

from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.models import ModelSettings
from ifguide.stages.generation import Generations
from ifguide.stages.stage import Inputs

pytest.importorskip("profanity_check")
pytestmark = pytest.mark.slow
WRITTEN = ["generations", "toxicity", "fluency"]  # what is measured whatever the decoder


@pytest.fixture(scope="module")
def folder(begun):
    return begun()


def test_rows_share_every_model_that_they_can(folder):
    none = Row(folder, "method=none").run()
    rad = Row(folder, "method=rad").run()
    assert sorted(rad.built) == sorted(["auxiliary", *WRITTEN, "evaluation"]) and rad.path("model") == none.path(
        "model"
    )
    assert set(rad.metrics()) == {"toxicity", "cost"} == set(none.metrics()) - {"perplexity"}
    files = {path.name for path in rad.path("auxiliary.reward").iterdir()}
    assert files >= {"config.json", "model.safetensors", "head.safetensors", "tokenizer.json", "manifest.json"}

    def built(*overrides):
        return sorted(Row(folder, *overrides).run().built)

    assert built("method=rad", "decoding.beta=1") == sorted([*WRITTEN, "evaluation"])
    assert built("method=rad", "decoding.batch_size=9") == []
    assert built("method=rad", "labelled.size=70") == sorted(["auxiliary", *WRITTEN, "evaluation"])

    experts = Row(folder, "method=dexperts").run()
    assert sorted(experts.built) == sorted(["auxiliary", "auxiliary", *WRITTEN, "evaluation"])
    assert experts.path("uncensored") == none.path("model")
    assert experts.path("auxiliary.expert") != experts.path("auxiliary.anti-expert")

    for method in ("rad", "dexperts"):
        rounded = Row(folder, f"method={method}", "evaluation.dtype=bfloat16").run()
        assert sorted(rounded.built) == sorted([*WRITTEN, "evaluation"])
        assert rounded.made["generations.toxicity"].manifest["facts"]["dtype"] == "bfloat16"

    dpo = Row(folder, "method=dpo").run()
    assert sorted(dpo.built) == sorted(["reference", "model", *WRITTEN, "perplexity", "evaluation"])
    assert dpo.path("trained") == none.path("model") != dpo.path("model")
    assert np.load(dpo.path("reference") / "reference.npy").shape == (60, 2)
    again = Row(folder, "method=none", f"model.pretrained={dpo.path('model')}", "optim.epochs=0")
    assert again.metrics()["perplexity"] == dpo.metrics()["perplexity"], "an ordinary model folder"
    more = built("method=dpo", "post_training.beta=0.3", "post_training.kl=0.1")
    assert more == sorted(["model", *WRITTEN, "perplexity", "evaluation"])

    both = Row(folder, "method=ifguide", "decoding=rad", "post_training=dpo").run()
    assert "auxiliary" not in both.built and both.built.count("model") == 2, "the suppressed model, then dpo"
    assert both.path("auxiliary.reward") == rad.path("auxiliary.reward")
    plain = Row(folder, "method=ifguide").run()
    assert sorted(plain.built) == sorted([*WRITTEN, "perplexity", "evaluation"])
    assert plain.path("model") == both.path("trained")


def test_a_model_of_another_tokenizer_can_be_the_reward_model(folder):
    other = Row(folder, "method=none", "data.tokenizer.vocabulary=300", "stage=model").run().path("model")
    made = Row(folder, "method=rad", f"decoding.reward.pretrained={other}")
    assert np.isfinite(made.metrics()["toxicity"]["all"]["toxic_fraction"]) and "auxiliary" in made.built
    with pytest.raises(ValueError, match="another tokenizer"):
        Row(folder, "method=dexperts", f"decoding.experts.pretrained={other}").run()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=rad", "decoding.top_k=0"], r"^decoding\.top_k=0"),
        (["method=rad", "decoding.reward.optim.batch_size=17"], r"^decoding\.reward\.optim\.batch_size=17 does not"),
        (["method=rad", "decoding.reward.pretrained=./nowhere"], r"^decoding\.reward\.pretrained=./nowhere: not a"),
        (["method=dexperts", "decoding.alpha=-1"], r"^decoding\.alpha=-1"),
        (["method=rad", "decoding.reward.optim.epochs=0"], "no trained head"),
        (["method=dexperts", "decoding.experts.optim.epochs=0"], r"^decoding\.experts\.optim\.epochs=0"),
        (["method=dpo", "post_training.beta=0"], r"^post_training\.beta=0"),
        (["method=dpo", "post_training.optim.batch_size=17"], r"^post_training\.optim\.batch_size=17 does not"),
        (["method=dpo", "pairs.size=0"], "^pairs: there is no pair"),
    ],
)
def test_mistakes_are_named_before_any_work(folder, overrides, message):
    with pytest.raises(ValueError, match=message):
        Row(folder / "untouched", *overrides).check()
    assert not (folder / "untouched").exists()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=dpo", "post_training.max_length=513"], r"^post_training\.max_length=513 .* context of 512"),
        (["method=dpo", "pairs.size=7"], r"^post_training\.optim\.batch_size=16: 1 epochs of 6 pairs are less"),
        (["method=rad", "labelled.size=6", "decoding.reward.optim.epochs=1"], r"6 labelled texts are less"),
        (["method=rad", "proxy.settings.max_position_embeddings=32"], r"the reward model's context of 32"),
        (["method=dexperts", "labelled.size=8"], r"blocks of labelled texts are less"),
        (["method=dexperts", "decoding.experts.pretrained={other}"], "another tokenizer"),
    ],
)
def test_mistakes_that_need_the_corpus_are_named_before_any_training(folder, tmp_path, overrides, message):
    other = ModelSettings(architecture="gpt2", settings={"n_embd": 8, "n_layer": 1, "n_head": 1})
    other.build(300, 0).save_pretrained(tmp_path)
    make_tokenizer(["another"], vocabulary=257).save_pretrained(tmp_path)
    made = Row(folder, *(override.replace("{other}", str(tmp_path)) for override in overrides))
    with pytest.raises(ValueError, match=message):
        made.run()
    assert set(made.made) <= {"data", "classifier.toxicity"}, "something was trained"


def test_pairs_do_not_hold_what_is_evaluated(folder, tmp_path):
    prompt = Row(folder, "method=none").plan.roles["generations.toxicity"].task.prompts[0].text
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"toxic": "Fool.", "neutral": prompt + " so it is."}))
    with pytest.raises(ValueError, match="also in the texts of `pairs`"):
        Row(
            folder, "method=dpo", "pairs=local", f"pairs.files={tmp_path}/pairs.jsonl", "pairs.prompt=null",
            "pairs.rejected=toxic", "pairs.chosen=neutral", small=False,
        ).check()  # fmt: skip


@pytest.mark.parametrize("method", ["rad", "dexperts"])
def test_labelled_texts_do_not_hold_what_is_evaluated(folder, tmp_path, method):
    prompt = Row(folder, "method=none").plan.roles["generations.toxicity"].task.prompts[0].text
    rows = [{"text": prompt + " so it is.", "label": 1}, {"text": "A fine day.", "label": 0}]
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, rows)))
    local = ["labelled=local", f"labelled.files={tmp_path}/labelled.jsonl"]
    with pytest.raises(ValueError, match="also in the texts of `labelled`"):
        Row(folder, f"method={method}", *local, small=False).check()


def test_models_are_loaded_with_the_attention_that_they_are_asked_to_have(folder, monkeypatch):
    """Bloom has no other than `eager`."""
    bloom = [
        f"{key}.{value}" for key in ("model", "proxy")
        for value in ("architecture=bloom", "attention=eager")
    ]  # fmt: skip
    bloom += [f"~{key}.settings.intermediate_size" for key in ("model", "proxy")]  # it has no such setting
    loaded = []
    original = Generations.build

    def spy(stage, place, inputs: Inputs):
        device = "cpu"
        loaded.append(stage.loading.load(inputs["model"], device))
        loaded.append(stage.auxiliary_loading.load(inputs.each("auxiliaries")["expert"], device))
        return original(stage, place, inputs)

    monkeypatch.setattr(Generations, "build", spy)
    made = Row(folder, "method=dpo", "decoding=dexperts", "post_training.kl=0.1", *bloom)
    assert np.isfinite(made.metrics()["toxicity"]["all"]["toxic_fraction"])
    assert {model.config._attn_implementation for model in loaded} == {"eager"}


def notes(folder, *overrides, **options):
    return Row(folder, *overrides, **options).plan.row["notes"]


def test_utilities_of_a_model_that_is_steered_are_said_to_be_without_its_decoder(folder, tmp_path):
    (tmp_path / "passages.jsonl").write_text('{"text": "the cat sat on the mat"}')
    lambada = ["+utility@utilities.lambada=lambada", f"utilities.lambada.files={tmp_path}/passages.jsonl"]
    assert notes(folder, "method=rad", *lambada) == ["Utilities are those of the model without its decoder."]
    assert notes(folder, "method=none", *lambada) == notes(folder, "method=rad") == []


def test_rows_whose_evaluator_knows_what_they_learned_from_are_marked(folder, tmp_path):
    texts = [
        {"text": f"{word} number {n}", "toxicity": int(word == "idiot")}
        for n in range(20)
        for word in ("kind", "idiot")
    ]
    for name in ("texts", "judged"):  # it is what a file holds that counts
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, texts)))
    both = [
        "classifier@classifiers.toxicity=perspective_file",
        f"classifiers.toxicity.scores.files={tmp_path}/judged.jsonl",
        "labelled=local", f"labelled.files={tmp_path}/texts.jsonl", "labelled.label=toxicity",
    ]  # fmt: skip
    assert notes(folder, "method=rad", *both, small=False) == [
        "Made with texts that a classifier which evaluates it knows (texts.jsonl)."
    ]
    assert notes(folder, "method=none", *both, small=False) == []
