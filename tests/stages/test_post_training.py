"""Rows whose model is changed after its training: what they build, share and leave alone."""

import json

import pytest
from rows import Row

from ifguide.methods.rl import GroupRelative, LeaveOneOut

pytest.importorskip("profanity_check")
pytestmark = pytest.mark.slow
FEW = ["post_training.sampling.limit=8", "post_training.sampling.samples=2", "post_training.optim.batch_size=4"]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folder(begun):
    return begun()


@pytest.fixture(scope="module")
def none(folder):
    return Row(folder, "method=none", "stage=model").run()


def test_a_policy_is_trained_from_the_uncensored_model_and_says_how(folder, none):
    made = Row(folder, "method=rl", *FEW, "stage=model").run()
    assert made.built == ["classifier", "model"] and made.path("trained") == none.path("model")
    assert (made.path("model") / WEIGHTS).read_bytes() != (none.path("model") / WEIGHTS).read_bytes()
    facts = made.facts("model")
    assert facts["steps"] == 2 and facts["prompts"] == 8 and 0 < facts["reward"][0] < 1
    assert facts["finding"].startswith("reward 0.") and not facts["warnings"]
    again = Row(folder, "method=rl", *FEW, "stage=model", "post_training.sampling.seed=1").run()
    assert again.built == ["model"], "other samples"


def test_a_task_vector_is_that_of_the_anti_expert_and_none_of_it_the_base(folder, none):
    made = Row(folder, "method=task_vector", "stage=model").run()
    assert sorted(made.built) == ["auxiliary", "model"] and made.facts("model")["vector_norm"] > 0
    experts = Row(folder, "method=dexperts").plan.roles
    assert made.plan.roles["anti-expert"].fingerprint == experts["auxiliary.anti-expert"].fingerprint
    base = Row(folder, "method=task_vector", "post_training.alpha=0", "stage=model").run()
    assert base.built == ["model"]
    same = [(row.path("model") / WEIGHTS).read_bytes() for row in (base, none)]
    assert same[0] == same[1] != (made.path("model") / WEIGHTS).read_bytes()
    suppressed = Row(folder, "method=ifguide", "post_training=task_vector").plan.roles
    assert suppressed["anti-expert"].start is suppressed["trained"], "the vector of the row's own model"


def test_the_loss_and_the_classifier_are_chosen(folder):
    rows = {name: Row(folder, "method=rl", f"post_training={name}") for name in ("rl", "grpo")}
    kinds = {name: type(row.plan.roles["model"].post_training.estimator) for name, row in rows.items()}
    assert kinds == {"rl": LeaveOneOut, "grpo": GroupRelative}
    assert len({row.plan.roles["model"].fingerprint for row in rows.values()}) == 2
    assert rows["rl"].plan.row["notes"] == []
    other = Row(folder, "method=rl", "classifier@post_training.classifier=profanity_check")
    assert other.plan.roles["model"].fingerprint != rows["rl"].plan.roles["model"].fingerprint
    (note,) = other.plan.row["notes"]
    assert note.startswith("Made with a classifier that evaluates it")


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=rl", "post_training.sampling.samples=1"], r"^post_training\.sampling\.samples=1"),
        (["method=rl", "post_training.sampling.top_p=0.9"], r"^post_training\.sampling\.top_p=0\.9"),
        (["method=rl", "post_training.estimator.beta=-1"], r"^post_training\.estimator\.beta=-1"),
        (["method=rl", "post_training.optim.batch_size=17"], r"^post_training\.optim\.batch_size=17 does not"),
        (["method=rl", "post_training.sampling.limit=7"], r"^post_training\.optim\.batch_size=16: 1 epochs of 7 prom"),
        (["method=rl", "post_training.inner_epochs=2", "trainer=ddp_cpu"], r"^post_training\.inner_epochs=2: .* of 2"),
        (["method=task_vector", "post_training.alpha=-1"], r"^post_training\.alpha=-1"),
        (["method=task_vector", "post_training.anti_expert.optim.epochs=0"], r"^post_training\.anti_expert\.optim\.ep"),
    ],
)
def test_mistakes_are_named_before_any_work(folder, overrides, message):
    with pytest.raises(ValueError, match=message):
        Row(folder / "untouched", *overrides).check()
    assert not (folder / "untouched").exists()


def test_prompts_that_are_learned_from_are_not_evaluated(folder, tmp_path):
    prompt = Row(folder, "method=none").plan.roles["generations.toxicity"].task.prompts[0].text
    rows = [{"prompt": text, "continuation": " so", "label": n} for n, text in enumerate(["A", prompt])]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    local = ["queries@behaviours.toxicity=local", f"behaviours.toxicity.files={tmp_path}/queries.jsonl"]
    with pytest.raises(ValueError, match="also queries"):
        Row(folder, "method=rl", *local, "post_training.optim.batch_size=2", small=False).check()
