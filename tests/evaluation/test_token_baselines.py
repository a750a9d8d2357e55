"""Rival token scores, and the quality of any token scores."""

import numpy as np
import pytest
import torch

from ifguide.corpus.documents import Query
from ifguide.corpus.queries import encode_queries
from ifguide.evaluation.attribution import SHARES, attribution_quality, precision_at, quality_difference
from ifguide.evaluation.token_baselines import (
    classifier_window_scores,
    expert_log_ratio_scores,
    gradient_norm_scores,
)
from ifguide.models import ModelSettings
from ifguide.objectives.language_modeling import token_losses
from ifguide.report.attribution import (
    plot_cost,
    plot_intervals,
    plot_mask_overlap,
    plot_precision_recall,
)
from ifguide.statistics import precision_recall, roc_auc


@pytest.fixture(scope="module")
def small_model(corpus):
    settings = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    torch.manual_seed(0)
    return ModelSettings(architecture="gpt_neox", settings=settings).build(corpus.vocabulary, None)


class IdiotClassifier:
    name = "idiot"

    def __call__(self, texts):
        return {"toxicity": np.array([float("idiot" in text) for text in texts])}


def test_quality_has_the_exact_values_inside_their_intervals():
    rng = np.random.default_rng(0)
    annotated = rng.random((400, 20)) < 0.05
    scores = (rng.normal(size=annotated.shape) + annotated).astype(np.float32)
    known = rng.random((400, 1)).repeat(20, 1) < 0.8
    metrics = attribution_quality(scores, annotated, known)
    inside = known.copy()
    inside[:, 0] = False
    assert metrics["roc_auc"] == roc_auc(scores[inside], annotated[inside])
    for name in ("roc_auc", *(f"precision_at_{share}" for share in SHARES)):
        low, high = metrics[f"{name}_interval"]
        assert low < metrics[name] < high, name
    assert metrics["precision_at_0.01"] == precision_at(scores[inside], annotated[inside], 0.01)
    # the interval of an AUC is about as wide as theory has it (Hanley and McNeil, 1982)
    low, high = metrics["roc_auc_interval"]
    assert 0.3 < (high - low) / (2 * 1.96 * 0.014) < 3


def test_differences_of_quality_are_paired():
    rng = np.random.default_rng(0)
    annotated = rng.random((400, 20)) < 0.05
    scores = (rng.normal(size=annotated.shape) + annotated).astype(np.float32)
    near = (scores + 0.3 * rng.normal(size=scores.shape)).astype(np.float32)
    known = np.ones_like(annotated)
    found = quality_difference(scores, near, annotated, known)
    one, other = (attribution_quality(values, annotated, known) for values in (scores, near))
    for name, (difference, low, high) in found.items():
        assert difference == pytest.approx(one[name] - other[name]) and low < difference < high
        ends = [metrics[f"{name}_interval"] for metrics in (one, other)]
        unpaired = np.hypot(*(end[1] - end[0] for end in ends))
        assert high - low < unpaired, "resampled apart, their noise would not cancel"
    same = quality_difference(scores, scores, annotated, known)
    assert all(values == [0.0, 0.0, 0.0] for values in same.values())


def test_ties_at_the_border_count_on_average():
    scores, positive = np.array([3, 2, 2, 2, 2, 1]), np.array([1, 1, 0, 0, 0, 1], dtype=bool)
    assert precision_at(scores, positive, 1 / 6) == 1 and precision_at(scores, positive, 0.5) == (1 + 2 / 4) / 3


def test_ties_are_no_advantage():
    annotated = np.zeros((200, 10), dtype=bool)
    annotated[:, 5] = True
    metrics = attribution_quality(np.zeros((200, 10), np.float32), annotated, np.ones((200, 10), dtype=bool))
    assert metrics["roc_auc"] == 0.5 and metrics["roc_auc_interval"] == pytest.approx([0.5, 0.5])


def test_windows_are_scored_by_their_text(corpus):
    split = corpus.split("train")
    scores = classifier_window_scores(split, corpus.tokenizer, IdiotClassifier(), window=3, stride=1)
    ids = split.tokens(slice(0, len(split)))
    for row in range(0, len(split), 7):
        for t in range(1, split.block_length):
            text = corpus.tokenizer.decode(ids[row, max(0, t - 3) : t + 4])
            assert scores[row, t] == float("idiot" in text), (row, t)
    strided = classifier_window_scores(split, corpus.tokenizer, IdiotClassifier(), window=3, stride=4)
    assert (strided[:, 4:8] == strided[:, 4:5]).all() and (strided[:, 2] == scores[:, 2]).all()


def test_gradient_norms_are_those_of_autograd(corpus, small_model):
    split = corpus.split("test")
    scores = gradient_norm_scores(small_model, split, batch_size=2)
    ids = torch.from_numpy(split.tokens(slice(0, 1)))
    with torch.no_grad():
        hidden = small_model.base_model(ids, use_cache=False).last_hidden_state
    hidden.requires_grad_(True)
    loss = token_losses(small_model.get_output_embeddings()(hidden), ids)[0, 4]
    gradient = torch.autograd.grad(loss, hidden)[0]
    assert scores[0, 4] == pytest.approx(float(gradient.norm()), rel=1e-4) and (scores[:, 0] == 0).all()


def test_experts_prefer_what_they_were_shown(corpus, small_model):
    queries = [Query("", " the idiot idiot idiot", True, "a"), Query("", " the cat cat cat", False, "b")] * 8
    encoded = encode_queries(queries, corpus.tokenizer, 16)
    split = corpus.split("train")
    before = {name: p.clone() for name, p in small_model.state_dict().items()}
    scores = expert_log_ratio_scores(small_model, split, encoded, batch_size=4, epochs=3, learning_rate=1e-2)
    marked = split.annotation[:]
    marked[:, 0] = False
    assert scores[marked].mean() > scores[~marked].mean() and (scores[:, 0] == 0).all()
    assert all(torch.equal(p, before[name]) for name, p in small_model.state_dict().items()), "the model was changed"


def test_figures_are_written(tmp_path):
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=500), rng.random(500) < 0.2
    recall, precision = precision_recall(scores, positive)
    assert recall[-1] == 1 and precision[-1] == pytest.approx(positive.mean()) and (np.diff(recall) >= 0).all()
    plot_precision_recall({"a": (recall, precision)}, 0.2, tmp_path / "a.png")
    plot_mask_overlap(["a", "b"], np.array([[1, 0.2], [0.2, 1]]), tmp_path / "b.png")
    plot_cost({"a": (1.0, 0.2, (0.1, 0.3)), "b": (0.1, 0.2, (0.1, 0.3))}, tmp_path / "c.png", label="precision")
    curves = {"a": [(0.01, 1.0, 0.5, 1.5), (1.0, 2.0, 2.1, 2.5)], "b": [(0.01, 1.0, 0.5, 1.5)]}
    for name, log in (("d", True), ("e", False)):
        plot_intervals(curves, tmp_path / f"{name}.png", labels=("δ", "QLD"), log=log, reference=0.5)
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in "abcde")
