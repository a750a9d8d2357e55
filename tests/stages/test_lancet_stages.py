"""LANCET-style correction, in stages: what sequences are ranked by, and a row on a few documents."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from composing import composed
from rows import Row

from ifguide.influence.direction import load_direction
from ifguide.influence.store import open_scores
from ifguide.objectives.language_modeling import token_losses
from ifguide.stages.lancet import SEQUENCE_SCORES_FILE, InfluenceOfSequences, JudgedSequences, RandomSequences
from ifguide.stages.plan import make_plan
from ifguide.stages.stage import Inputs
from ifguide.training.trainer import TrainerSettings


class Insults:
    """A classifier that knows one word."""

    def load(self, folder, device):
        return lambda texts: {"toxicity": np.array(["idiot" in text for text in texts], float)}


def built(stage, folder, **inputs):
    stage.build(folder, Inputs({name: SimpleNamespace(path=path) for name, path in inputs.items()}))
    return np.load(folder / SEQUENCE_SCORES_FILE)


def test_the_influence_of_a_sequence_is_the_sum_of_its_tokens_scores(tmp_path):
    scores = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
    np.save(tmp_path / "scores.npy", scores)
    for length in (None, 3):
        found = built(InfluenceOfSequences(scores=None, length=length), tmp_path, scores=tmp_path)
        assert np.allclose(found, [sum(float(value) for value in row[:length]) for row in scores[0]], atol=1e-12)


@pytest.mark.parametrize("length", [None, 6])
def test_a_classifier_reads_the_text_of_a_sequence(corpus, tmp_path, length):
    stage = JudgedSequences(data=None, classifier=None, length=length, judge=Insults(), trainer=TrainerSettings())
    found = built(stage, tmp_path, data=corpus.path, classifier=tmp_path)
    tokens = corpus.split("train").tokens(slice(None))[:, :length]
    assert found.tolist() == [1 if "idiot" in corpus.tokenizer.decode(row) else -1 for row in tokens]
    assert set(found) == {-1, 1}


def test_chance_follows_its_seed(corpus, tmp_path):
    one, same, other = (built(RandomSequences(data=None, seed=seed), tmp_path, data=corpus.path) for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert len(one) == len(corpus.split("train")) and -1 <= one.min() < 0 < one.max() <= 1


def plan(*overrides):
    return make_plan(composed("+debug=smoke", "method=lancet", "paths.run=r", *overrides))


def test_controls_are_settings_that_need_less():
    influence, labelled, judged, chance = (
        plan("stage=model", *overrides)
        for overrides in ([], ["post_training.queries=labelled"], ["post_training.rank=classifier"],
                          ["post_training.rank=random"])
    )  # fmt: skip
    common = {"data", "trained", "lancet.sequences", "model"}
    own = {"lancet.factors", "lancet.direction", "lancet.scores"}
    assert set(influence.roles) == common | own | {"samples", "judged_samples", "classifier.post_training"}
    assert set(labelled.roles) == common | own
    assert set(judged.roles) == common | {"classifier.post_training"} and set(chance.roles) == common
    assert len({one.roles["trained"].fingerprint for one in (influence, labelled, judged, chance)}) == 1
    assert len({one.roles["model"].fingerprint for one in (influence, labelled, judged, chance)}) == 4
    assert all(query.toxic for query in labelled.roles["lancet.direction"].queries)
    assert influence.roles["lancet.factors"].curvature.strategy == "sequence_kronecker"
    exact = plan("stage=model", "curvature=ekfac")
    assert exact.roles["lancet.factors"].curvature.strategy == "ekfac"
    assert exact.roles["samples"].fingerprint == influence.roles["samples"].fingerprint
    ascent = plan("stage=model", "post_training.objective=ascent").roles
    assert ascent["lancet.sequences"].fingerprint == influence.roles["lancet.sequences"].fingerprint
    assert plan("scorer=positional").roles["lancet.sequences"].length is None
    with pytest.raises(ValueError, match=r"^post_training\.length=8: its tokens' own losses are summed"):
        plan("scorer=positional", "post_training.length=8")
    with pytest.raises(ValueError, match=r"^post_training\.rank=length; known: influence"):
        plan("post_training.rank=length")


@pytest.mark.parametrize("option", ["refine=cg", "student=words", "scorer=probe", "scorer=classifier"])
def test_what_its_chain_does_not_have_is_refused(option):
    with pytest.raises(ValueError, match=rf"^{option.partition('=')[0]}: .*choose"):
        plan("stage=model", option)
    plan("stage=model", option, "post_training.rank=random")


@pytest.mark.slow
def test_a_row_is_corrected_by_what_its_own_model_wrote(begun):
    row = Row(begun(), "method=lancet", "stage=model", "post_training.threshold=0.3").run()
    split, model = row.corpus.split("train"), row.model("trained")
    scores, sums = (
        open_scores(row.path("lancet.scores"))[0],
        np.load(row.path("lancet.sequences") / SEQUENCE_SCORES_FILE),
    )
    assert scores.shape == split.shape and np.allclose(sums, scores.sum(1, dtype=np.float64))
    direction = load_direction(row.path("lancet.direction"), model)
    ids = torch.from_numpy(split.tokens(np.array([int(np.abs(sums).argmax())])))
    gradients = torch.autograd.grad(
        token_losses(model(ids).logits, ids).sum(), [model.get_parameter(name) for name in direction]
    )
    product = sum(float((v * g).sum()) for v, g in zip(direction.values(), gradients, strict=True))
    assert product == pytest.approx(sums[np.abs(sums).argmax()], rel=1e-3), "⟨v, ∇L(z)⟩"
    facts = row.facts("lancet.direction")
    assert 0 < facts["positive_queries"] <= facts["continuations"] and facts["negative_queries"] == 0
    assert row.facts("model")["pairs"] == int(0.1 * len(split))
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), row.model().parameters(), strict=True)]
    assert any(moved)
