"""Scores in bfloat16 where hardware has it and a sample's scores agree with float32; else in float32."""

import copy

import numpy as np
import pytest
import torch
from test_scorers import random_direction
from tiny import tiny_model

from ifguide.corpus.masks import TokenMask, jaccard
from ifguide.hardware import AUTO
from ifguide.influence import low_precision
from ifguide.influence.low_precision import agreement, prepare_in
from ifguide.influence.scorers import JVP, FiniteDifference
from ifguide.influence.scoring import BlockSampler


def scored(dtype, blocks, scorer=None):
    """Scores [K, B, T] and facts, in a dtype."""
    model = tiny_model("llama", dtype=torch.float32)
    directions = [random_direction(model, seed) for seed in range(2)]
    ids = blocks.numpy()
    prepared = prepare_in(dtype, scorer or JVP(), model, directions, BlockSampler(ids.__getitem__, ids.shape))
    return prepared(blocks).float().numpy(), prepared.facts


@pytest.fixture
def hardware(monkeypatch):
    monkeypatch.setattr(low_precision, "is_faster_rounded", lambda model: True)
    monkeypatch.setattr(low_precision, "LEAST_TOKENS", 0)
    return monkeypatch


def test_without_hardware_scores_are_those_in_float32(blocks, monkeypatch):
    monkeypatch.setattr(low_precision, "is_faster_rounded", lambda model: False)
    (ours, facts), (exact, _) = scored(AUTO, blocks), scored("float32", blocks)
    assert np.array_equal(ours, exact) and facts["dtype"] == "float32" and "float32_check" not in facts


def test_scores_that_agree_are_taken_in_bfloat16_and_others_are_not(blocks, hardware):
    (exact, _), (rounded, _) = scored("float32", blocks), scored("bfloat16", blocks)
    assert not np.array_equal(exact, rounded)
    hardware.setattr(low_precision, "CORRELATION", 0.99)
    hardware.setattr(low_precision, "JACCARD", 0.0)
    ours, facts = scored(AUTO, blocks)
    assert np.array_equal(ours, rounded) and facts["dtype"] == "bfloat16"
    assert facts["float32_check"] == {"tokens": blocks.numel(), **agreement(rounded, exact)}
    for name in ("CORRELATION", "JACCARD"):
        with hardware.context() as one:
            one.setattr(low_precision, name, 1.01)
            ours, facts = scored(AUTO, blocks)
        assert np.array_equal(ours, exact) and facts["dtype"] == "float32" and "float32_check" in facts


def test_a_small_corpus_is_not_worth_a_comparison(blocks, hardware):
    hardware.setattr(low_precision, "LEAST_TOKENS", blocks.numel() + 1)
    assert "float32_check" not in scored(AUTO, blocks)[1]


def test_a_scorer_that_needs_float32_gets_it(blocks, hardware):
    (ours, facts), (exact, _) = (scored(dtype, blocks, FiniteDifference()) for dtype in (AUTO, "float32"))
    assert np.array_equal(ours, exact) and facts["dtype"] == "float32" and "float32_check" not in facts


def test_agreement_is_that_of_the_worst_behaviour_without_first_tokens():
    exact = np.random.default_rng(0).normal(size=(2, 50, 11))
    ours = copy.deepcopy(exact)
    ours[1] += np.random.default_rng(1).normal(size=(50, 11))
    exact[:, :, 0], ours[:, :, 0] = 0.0, 99.0
    masks = []
    for scores in (ours[1, :, 1:], exact[1, :, 1:]):
        masks.append(TokenMask.pack(scores >= np.sort(scores, axis=None)[-10]))  # 2 % of 500 tokens
    correlation = np.corrcoef(ours[1, :, 1:].ravel(), exact[1, :, 1:].ravel())[0, 1]
    found = agreement(ours, exact)
    assert found == {"correlation": pytest.approx(correlation), "mask_jaccard": pytest.approx(jaccard(*masks))}
    assert 0 < found["mask_jaccard"] < 1 and agreement(exact, exact) == {"correlation": 1.0, "mask_jaccard": 1.0}
