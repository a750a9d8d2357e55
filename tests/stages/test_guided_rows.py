"""Methods that learn from the row's own samples: what they build and share, round by round."""

import pytest
from rows import Row

from ifguide.methods.samples import SAMPLES_FILE, load_samples
from ifguide.stages import rules
from ifguide.stages.attribute_control import ControlledModel
from ifguide.stages.stage import closure

pytest.importorskip("profanity_check")
pytestmark = pytest.mark.slow
FEW = ("sampling.samples=3", "sampling.max_new_tokens=6", "optim.batch_size=16")
GUIDED = ("method=nado", *(f"decoding.guidance.{one}" for one in FEW))
CONTROLLED = ("method=attribute_control", "stage=model", *(f"post_training.guidance.{one}" for one in FEW))
WRITTEN = ["generations", "toxicity", "fluency", "evaluation"]  # what is measured whatever the decoder


@pytest.fixture(scope="module")
def folder(begun):
    return begun()


@pytest.fixture(scope="module")
def two_rounds(folder):
    return Row(folder, *CONTROLLED).run()


def inputs(row, role):
    return row.made[role].manifest["inputs"]


def test_a_guided_row_learns_from_its_own_samples(folder):
    row = Row(folder, *GUIDED).run()
    read = inputs(row, "generations.toxicity")
    assert read["auxiliaries.base"] == read["model"], "the model is not copied"
    assert {path.name for path in row.path("auxiliary.guidance").iterdir()} == {
        "guidance.safetensors", "guidance.json", "manifest.json",
    }  # fmt: skip
    rounded = Row(folder, *GUIDED, "evaluation.dtype=bfloat16").run()
    assert rounded.made["generations.toxicity"].manifest["facts"]["dtype"] == "bfloat16"
    prompts, continuations = load_samples(row.path("auxiliary.samples") / SAMPLES_FILE)
    assert continuations.shape == (len(prompts), 3, 6)
    assert inputs(row, "auxiliary.guidance")["model"] == row.plan.roles["model"].fingerprint
    assert set(row.metrics()) == {"toxicity", "cost"}, "no perplexity of a model that is steered"
    assert "auxiliary.guidance" in row.plan.roles and row.plan.row["notes"] == []
    again = Row(folder, *GUIDED, "decoding.alpha=2").run()
    assert sorted(again.built) == sorted(WRITTEN)
    changed = Row(folder, *GUIDED, "decoding.guidance.consistency=0").run()
    assert sorted(changed.built) == sorted(["guidance", *WRITTEN])
    other = Row(folder, "method=none", "decoding=nado", "objective=unlikelihood", "filter=words").plan
    assert other.roles["auxiliary.guidance"].inputs["model"] is other.roles["model"]


def test_sequential_rounds_are_found_again_by_fewer_and_by_more(folder, two_rounds):
    assert inputs(two_rounds, "round2.samples")["model"] == two_rounds.plan.roles["round1.model"].fingerprint
    assert inputs(two_rounds, "round2.guidance")["start"] == two_rounds.plan.roles["round1.guidance"].fingerprint
    assert inputs(two_rounds, "model")["guidance"] == two_rounds.plan.roles["round2.guidance"].fingerprint
    facts = two_rounds.facts("model")
    assert 0 < facts["seconds_per_ordinary_step"] and 0 < facts["seconds_per_step"] and facts["steps"] > 0
    one = Row(folder, *CONTROLLED, "post_training.rounds=1").run()
    assert one.built == [] and one.path("model") == two_rounds.path("round1.model") != two_rounds.path("model")
    more = Row(folder, *CONTROLLED, "post_training.rounds=3").plan
    assert more.roles["round2.model"].fingerprint == two_rounds.plan.roles["model"].fingerprint
    weaker = Row(folder, *CONTROLLED, "post_training.weight=0.5").plan
    assert weaker.roles["round1.guidance"].fingerprint == more.roles["round1.guidance"].fingerprint
    assert weaker.roles["round1.model"].fingerprint != more.roles["round1.model"].fingerprint


def test_a_killed_run_goes_on_at_its_round(folder, two_rounds, monkeypatch):
    build = ControlledModel.build

    def killed(stage, place, given):
        if stage.round_ == 3:
            raise KeyboardInterrupt
        return build(stage, place, given)

    options = (*CONTROLLED, "post_training.rounds=3")
    monkeypatch.setattr(ControlledModel, "build", killed)
    row = Row(folder, *options)
    with pytest.raises(KeyboardInterrupt):
        row.run()
    assert row.built == ["samples", "toxicity", "guidance"], "two rounds are there"
    monkeypatch.undo()
    assert Row(folder, *options).run().built == ["model"]


def test_in_the_parallel_scheme_a_round_and_the_next_guidance_need_each_other_for_nothing(folder, two_rounds):
    """R̂ of a round is for the model of a round earlier, from samples of the one before that."""
    row = Row(folder, *CONTROLLED, "post_training.parallel=true").run()
    assert row.built == ["guidance", "model"], "the first samples and the first round are those of the other scheme"
    assert row.path("round1.model") == two_rounds.path("round1.model") and row.path("model") != two_rounds.path("model")
    roles = Row(folder, *CONTROLLED, "post_training.parallel=true", "post_training.rounds=4").plan.roles
    for number, (of, writer) in enumerate((("trained", "trained"), ("round1.model", "trained"),
                                           ("round2.model", "round1.model")), 2):  # fmt: skip
        guidance = roles[f"round{number}.guidance"]
        assert guidance.inputs["model"] is roles[of]
        assert guidance.inputs["samples"].inputs["model"] is roles[writer]
        assert guidance.inputs["start"] is roles[f"round{number - 1}.guidance"]
        beside = roles[f"round{number - 1}.model"]
        assert guidance not in closure(beside) and beside not in closure(guidance)


def test_samples_that_are_longer_than_the_context_name_their_setting(folder, two_rounds):
    row = Row(folder, "method=nado", "decoding.guidance.sampling.max_new_tokens=4000")
    with pytest.raises(
        ValueError, match=r"^decoding\.guidance\.sampling\.max_new_tokens=4000: it is below the model's"
    ):
        row.plan.check_corpus(two_rounds.corpus)


@pytest.mark.parametrize("method, place", [("nado", "decoding"), ("attribute_control", "post_training")])
def test_texts_that_a_classifier_learns_from_are_named_as_they_are_typed(folder, method, place):
    names = [name for name, _ in rules.learned_texts(Row(folder, f"method={method}").plan)]
    assert names == [f"{place}.guidance.classifier.texts.labelled"]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=nado", "decoding.alpha=-1"], r"^decoding\.alpha=-1"),
        (["method=nado", "decoding.guidance.optim.batch_size=17"], r"^decoding\.guidance\.optim\.batch_size=17 does"),
        (["method=nado", "decoding.guidance.sampling.samples=1", "decoding.guidance.optim.epochs=0.1"],
         r"^decoding\.guidance\.optim\.batch_size=64: .* samples are less"),
        (["method=nado", "decoding.guidance.threshold=2"], r"^decoding\.guidance\.threshold=2"),
        (["method=nado", "decoding.guidance.sampling.samples=0"], r"^decoding\.guidance\.sampling\.samples=0"),
        (["method=dpo", "trainer.gradient_checkpointing=true"], r"^trainer\.gradient_checkpointing=true: this post-tr"),
        (["method=attribute_control", "post_training.rounds=0"], r"^post_training\.rounds=0"),
        (["method=attribute_control", "post_training.optim.batch_size=17"],
         r"^post_training\.optim\.batch_size=17 does"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_any_work(folder, overrides, message):
    with pytest.raises(ValueError, match=message):
        Row(folder / "untouched", *overrides).check()
    assert not (folder / "untouched").exists()


def test_mistakes_that_need_the_corpus_are_named_before_any_training(folder):
    row = Row(folder, *CONTROLLED, "post_training.labels=[rude]")
    with pytest.raises(ValueError, match=r"^post_training\.labels=\['rude'\]: there is no rude"):
        row.run()
    assert set(row.made) <= {"data", "classifier.post_training"}
