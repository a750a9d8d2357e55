import numpy as np
import pytest
import torch

from ifguide.influence.amortised import Amortised, ConvolutionStudent
from ifguide.influence.floors import agreement, held_out_quality, shuffled_within
from ifguide.influence.pooling import TypePooling, WordPooling

VOCABULARY = 40
TEXTS = [f" {chr(ord('a') + i // 26)}{chr(ord('a') + i % 26)}" for i in range(VOCABULARY)]
WORDS = WordPooling(types=TypePooling(context_weight=0))
STUDENTS = {"types": TypePooling(context_weight=0), "words": WORDS, "convolutions": ConvolutionStudent(epochs=8)}


@pytest.fixture(scope="module")
def corpus():
    """Scores that are the worth of the token's type, for two behaviours, under noise three times as large."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, VOCABULARY, (1500, 32))
    worth = generator.normal(size=(2, VOCABULARY))[:, ids]
    worth[:, :, 0] = 0
    noise = 3 * generator.normal(size=worth.shape) * (np.arange(32) > 0)
    return ids, worth, (worth + noise).astype(np.float32)


def fit(student, ids, scores):
    return student.fit(scores, lambda rows: ids[rows], TEXTS)[0]


def correlation(a, b):
    return np.corrcoef(a[:, 1:].ravel(), b[:, 1:].ravel())[0, 1]


@pytest.mark.parametrize("student", STUDENTS.values(), ids=STUDENTS)
def test_a_student_of_few_scores_is_closer_to_the_truth_than_the_scores(corpus, student):
    ids, worth, scores = corpus
    fitted = fit(student, ids[:1200], scores[:, :1200])
    unseen = fitted.scores(torch.from_numpy(ids[1200:])).numpy()
    assert unseen.shape == scores[:, 1200:].shape and (unseen[..., 0] == 0).all()
    for ours, exact, truth in zip(unseen, scores[:, 1200:], worth[:, 1200:], strict=True):
        assert correlation(ours, truth) > 0.7 > 0.4 > correlation(exact, truth)
        assert ours.std() > 0.1 * truth.std()  # in the units of scores


@pytest.mark.parametrize("student", STUDENTS.values(), ids=STUDENTS)
def test_a_fit_is_reproducible_survives_saving_and_does_not_depend_on_batches(corpus, tmp_path, student):
    ids, _, scores = corpus
    some = torch.from_numpy(ids[:8])
    first, again = (fit(student, ids[:64], scores[:, :64]) for _ in range(2))
    first.save(tmp_path)
    together = first.scores(some)
    assert torch.equal(together, again.scores(some)) and torch.equal(together, student.load(tmp_path).scores(some))
    apart = torch.cat([first.scores(some[i : i + 1]) for i in range(8)], dim=1)
    assert torch.allclose(together, apart, atol=1e-4 * float(together.std()))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"^share=1\.0"):
        Amortised(TypePooling(), share=1.0)
    with pytest.raises(ValueError, match="odd"):
        ConvolutionStudent(kernels=[4])
    with pytest.raises(ValueError, match="width=0"):
        ConvolutionStudent(width=0)


def test_scores_are_shuffled_within_documents(corpus):
    _, _, scores = corpus
    few = scores[:, :40]
    document = np.sort(np.random.default_rng(1).integers(0, 12, few[0].size)).reshape(few[0].shape)
    shuffled = shuffled_within(few, document, seed=0)
    assert np.array_equal(shuffled[..., 0], few[..., 0]) and (shuffled != few).mean() > 0.8
    for one in range(12):
        inside = document == one
        inside[:, 0] = False
        before, after = few[:, inside], shuffled[:, inside]
        assert sorted(map(tuple, before.T)) == sorted(map(tuple, after.T)), "behaviours of a token stay together"
    assert np.array_equal(shuffled, shuffled_within(few, document, seed=0))


def test_agreement_is_that_of_a_regression():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30, 9))
    slope, intercept = np.polyfit(a[:, 1:].ravel(), (b + a)[:, 1:].ravel(), 1)
    residual = (b + a)[:, 1:] - slope * a[:, 1:] - intercept
    assert agreement(a, a + b)["r2"] == pytest.approx(1 - residual.var() / (a + b)[:, 1:].var())
    assert agreement(7 * a, a + b) == pytest.approx(agreement(a, a + b)), "the scale of scores does not matter"
    assert agreement(-a, a + b)["r2"] == agreement(np.zeros_like(a), b)["r2"] == 0


def test_a_student_is_held_against_its_floors(corpus):
    """Scores are worth the token's type, and add up to 0 in each document: shuffled within it, they say nothing."""
    ids, worth, _ = corpus
    noisy = worth.astype(np.float32)
    noisy[..., 1:] -= noisy[..., 1:].mean(-1, keepdims=True)
    document = np.repeat(np.arange(len(ids)), 32).reshape(ids.shape)
    found = held_out_quality(WORDS, noisy, lambda rows: ids[rows], TEXTS, document, seed=0)
    assert found["blocks"] == 300 and all(len(found[name]) == 2 for name in ("student", "shuffled", "unigram"))
    for one, other in zip(found["student"], found["unigram"], strict=True):
        assert one["r2"] > 0.9 and one["spearman"] > 0.9 and one["r2"] == pytest.approx(other["r2"], abs=0.02)
    assert max(one["r2"] for one in found["shuffled"]) < 0.3

    class Recorder:
        def fit(self, scores, tokens, texts):
            assert scores.shape[1] == len(tokens(slice(0, None)))
            assert not (ids[::5][:, None] == tokens(slice(0, None))[None, :300]).all(-1).any()
            return WORDS.fit(scores, tokens, texts)

    held_out_quality(Recorder(), noisy, lambda rows: ids[rows], TEXTS, document, seed=0)
    assert held_out_quality(WORDS, noisy[:, :1], lambda rows: ids[rows], TEXTS, document[:1], seed=0) == {}
