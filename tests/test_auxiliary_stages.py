"""Methods beside IF-Guide that need models of their own: what they build, share and leave alone."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from test_pipeline import CONF, pipeline, pipeline_without_sizes

from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.models import build_model
from ifguide.workspace import Workspace

pytest.importorskip("profanity_check")
WRITTEN = ["generations", "toxicity", "fluency"]  # what is measured whatever the decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("auxiliary")


def built(monkeypatch, folder, *overrides):
    """Evaluate, and return the pipeline and the stages that had to be built."""
    stages, original = [], Workspace.build

    def spy(self, stage, **options):
        artifact = original(self, stage, **options)
        stages.extend([] if artifact.reused else [stage])
        return artifact

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "build", spy)
        made = pipeline(folder, *overrides)
        made.evaluation()
    return made, stages


def test_rows_share_every_model_that_they_can(folder, monkeypatch):
    none, _ = built(monkeypatch, folder, "method=none")
    rad, stages = built(monkeypatch, folder, "method=rad")
    assert stages == ["reward", *WRITTEN, "evaluation"] and rad.model() == none.model()
    assert set(rad.metrics()) == {"toxicity", "cost"} == set(none.metrics()) - {"perplexity"}
    files = {path.name for path in rad.artifacts["reward"].iterdir()}
    assert files >= {"config.json", "model.safetensors", "head.safetensors", "tokenizer.json", "manifest.json"}

    _, stages = built(monkeypatch, folder, "method=rad", "decoding.beta=1")
    assert stages == [*WRITTEN, "evaluation"]
    _, stages = built(monkeypatch, folder, "method=rad", "decoding.batch_size=9")
    assert stages == []
    _, stages = built(monkeypatch, folder, "method=rad", "labelled.size=70")
    assert stages == ["reward", *WRITTEN, "evaluation"]

    experts, stages = built(monkeypatch, folder, "method=dexperts")
    assert stages == ["expert", "expert", *WRITTEN, "evaluation"]
    assert experts.uncensored() == none.model() and experts.artifacts["expert"] != experts.artifacts["anti-expert"]

    dpo, stages = built(monkeypatch, folder, "method=dpo")
    assert stages == ["reference", "model", *WRITTEN, "perplexity", "evaluation"]
    assert dpo.artifacts["trained"] == none.model().path != dpo.artifacts["model"] == dpo.model().path
    assert np.load(dpo.artifacts["reference"] / "reference.npy").shape == (60, 2)
    again, stages = built(monkeypatch, folder, "method=none", f"model.pretrained={dpo.model().path}", "optim.epochs=0")
    assert again.metrics()["perplexity"] == dpo.metrics()["perplexity"], "an ordinary model folder"
    _, stages = built(monkeypatch, folder, "method=dpo", "post_training.beta=0.3", "post_training.kl=0.1")
    assert stages == ["model", *WRITTEN, "perplexity", "evaluation"]

    both, stages = built(monkeypatch, folder, "method=ifguide", "decoding=rad", "post_training=dpo")
    assert "reward" not in stages and stages.count("model") == 2, "the suppressed model, and what dpo makes of it"
    assert both.artifacts["reward"] == rad.artifacts["reward"]
    plain, stages = built(monkeypatch, folder, "method=ifguide")
    assert stages == [*WRITTEN, "perplexity", "evaluation"] and plain.model().path == both.artifacts["trained"]


def test_a_model_of_another_tokenizer_can_be_the_reward_model(folder, monkeypatch):
    other = pipeline(folder, "method=none", "data.tokenizer.vocabulary=300", "stage=model").model()
    made, stages = built(monkeypatch, folder, "method=rad", f"decoding.reward.pretrained={other.path}")
    assert "reward" in stages and np.isfinite(made.metrics()["toxicity"]["all"]["toxic_fraction"])
    with pytest.raises(ValueError, match="another tokenizer"):
        built(monkeypatch, folder, "method=dexperts", f"decoding.experts.pretrained={other.path}")


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=rad", "decoding.top_k=0"], "top_k=0"),
        (["method=rad", "decoding.reward.optim.batch_size=17"], "does not divide"),
        (["method=rad", "decoding.reward.pretrained=./nowhere"], "not a Hugging Face model folder"),
        (["method=dexperts", "decoding.alpha=-1"], "alpha=-1"),
        (["method=rad", "decoding.reward.optim.epochs=0"], "no trained head"),
        (["method=dexperts", "decoding.experts.optim.epochs=0"], r"experts\.optim\.epochs=0"),
        (["method=dpo", "post_training.beta=0"], "beta=0"),
        (["method=dpo", "pairs.size=0"], "no pair"),
    ],
)
def test_mistakes_are_named_before_any_work(folder, overrides, message):
    with pytest.raises(Exception, match=message):
        pipeline(folder / "untouched", *overrides)
    assert not (folder / "untouched").exists()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=dpo", "post_training.max_length=513"], r"post_training\.max_length=513 .* context of 512"),
        (["method=dpo", "pairs.size=7"], r"optim\.batch_size=16: .* 6 pairs are less than half a step"),
        (["method=rad", "labelled.size=6", "decoding.reward.optim.epochs=1"], r"6 labelled texts are less"),
        (["method=rad", "proxy.settings.max_position_embeddings=32"], r"the reward model's context of 32"),
        (["method=dexperts", "labelled.size=8"], r"optim\.batch_size=16: .* blocks of labelled texts are less"),
        (["method=dexperts", "decoding.experts.pretrained={other}"], "another tokenizer"),
    ],
)
def test_mistakes_that_need_the_corpus_are_named_before_any_training(folder, tmp_path, overrides, message):
    build_model(vocabulary=300, architecture="gpt2", settings={"n_embd": 8, "n_layer": 1, "n_head": 1}).save_pretrained(
        tmp_path
    )
    make_tokenizer(["another"], vocabulary=257).save_pretrained(tmp_path)
    made = pipeline(folder, *(override.replace("{other}", str(tmp_path)) for override in overrides))
    with pytest.raises(ValueError, match=message):
        made.evaluation()
    assert not made.artifacts.keys() - {"data"}, "something was trained"


def test_pairs_do_not_hold_what_is_evaluated(folder, tmp_path):
    prompt = pipeline(folder, "method=none").tasks["toxicity"].prompts[0].text
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"toxic": "Fool.", "neutral": prompt + " so it is."}))
    with pytest.raises(ValueError, match="also in the texts of `pairs`"):
        pipeline_without_sizes(
            folder, "method=dpo", "pairs=local", f"pairs.files={tmp_path}/pairs.jsonl", "pairs.prompt=null",
            "pairs.rejected=toxic", "pairs.chosen=neutral",
        )  # fmt: skip


@pytest.mark.parametrize("method", ["rad", "dexperts"])
def test_labelled_texts_do_not_hold_what_is_evaluated(folder, tmp_path, method):
    prompt = pipeline(folder, "method=none").tasks["toxicity"].prompts[0].text
    rows = [{"text": prompt + " so it is.", "label": 1}, {"text": "A fine day.", "label": 0}]
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="also in the texts of `labelled`"):
        pipeline_without_sizes(
            folder, f"method={method}", "labelled=local", f"labelled.files={tmp_path}/labelled.jsonl"
        )


def test_models_are_loaded_with_the_attention_that_they_are_asked_to_have(folder):
    """Bloom has no other than `eager`."""
    bloom = [f"{key}.{value}" for key in ("model", "proxy") for value in ("architecture=bloom", "attention=eager")]
    made = pipeline(folder, "method=dpo", "decoding=dexperts", "post_training.kl=0.1", *bloom)
    assert np.isfinite(made.metrics()["toxicity"]["all"]["toxic_fraction"])
    decoder = made.decoder(made.auxiliaries())
    loaded = (made._load(made.model()), decoder.expert, decoder.anti_expert)
    assert {model.config._attn_implementation for model in loaded} == {"eager"}


def test_utilities_of_a_model_that_is_steered_are_said_to_be_without_its_decoder(folder, tmp_path):
    (tmp_path / "passages.jsonl").write_text('{"text": "the cat sat on the mat"}')
    lambada = ["+utility@utilities.lambada=lambada", f"utilities.lambada.files={tmp_path}/passages.jsonl"]
    assert pipeline(folder, "method=rad", *lambada).notes == ["Utilities are those of the model without its decoder."]
    assert pipeline(folder, "method=none", *lambada).notes == pipeline(folder, "method=rad").notes == []


def test_rows_whose_evaluator_knows_what_they_learned_from_are_marked(folder, tmp_path):
    texts = [
        {"text": f"{word} number {n}", "toxicity": int(word == "idiot")}
        for n in range(20)
        for word in ("kind", "idiot")
    ]
    for name in ("texts", "judged"):  # it is what a file holds that counts
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, texts)))
    both = [
        "classifier=perspective_file", f"classifier.scores.files={tmp_path}/judged.jsonl",
        "labelled=local", f"labelled.files={tmp_path}/texts.jsonl", "labelled.label=toxicity",
    ]  # fmt: skip
    assert pipeline_without_sizes(folder, "method=rad", *both).notes == [
        "Made with texts that a classifier which evaluates it knows (texts.jsonl)."
    ]
    assert pipeline_without_sizes(folder, "method=none", *both).notes == []


@pytest.mark.parametrize(
    "overrides, top_p, seed",
    [
        (["method=rad", "seed=3"], 0.9, 3),
        (["decoding=rad", "decoding.beta=3", "objective.penalty=1"], 0.9, 0),
        (["decoding.top_p=0.7", "callbacks=influence"], 0.7, 0),
        (["method=dpo", "post_training.beta=1", "decoding=dexperts", "decoding.top_p=0.7"], 0.9, 0),
    ],
)
def test_the_reference_is_the_plain_model_with_plain_decoding(overrides, top_p, seed):
    reference = reference_of("none", *overrides)
    assert reference.objective["_target_"].endswith(".LanguageModeling") and not reference.post_training
    assert reference.decoding == {"_target_": "ifguide.decoding.Nucleus", "top_p": top_p, "temperature": 1.0}
    assert reference.seed == seed and "influence" not in reference.callbacks


def test_a_reference_keeps_the_objective_of_its_method():
    """`token_filter` is IF-Guide's objective with λ = 0, whatever λ the run has."""
    assert reference_of("token_filter", "objective.penalty=1").objective.penalty == 0
    with pytest.raises(ValueError, match="compare_with=nothing; known: dexperts, dpo"):
        reference_of("nothing")


def reference_of(method, *overrides):
    spec = importlib.util.spec_from_file_location("run", Path(CONF).parent / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[*overrides, "paths.run=r"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return run.compose_reference(method)["config"]
