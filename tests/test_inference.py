"""Models that are read in bfloat16 where that is faster and predicts the same, else in float32."""

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, tiny_model

from ifguide import inference
from ifguide.hardware import AUTO
from ifguide.inference import check_dtype, divergence, load_for_inference
from ifguide.models import ModelSettings

IDS = np.random.default_rng(0).integers(VOCABULARY, size=(3, 32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    tiny_model("llama", dtype=torch.float32).save_pretrained(place)
    return place


def loaded(folder, dtype):
    return load_for_inference(ModelSettings(pretrained=str(folder)), folder, "cpu", dtype, IDS)


def test_a_small_model_is_read_in_float32_on_every_machine(folder, monkeypatch):
    monkeypatch.setattr(inference, "computes_bfloat16", lambda device: True)
    model, facts = loaded(folder, AUTO)
    assert model.dtype == torch.float32 and not model.training and facts == {"dtype": "float32"}


def test_a_larger_one_is_rounded_where_hardware_computes_it_and_predictions_agree(folder, monkeypatch):
    monkeypatch.setattr(inference, "LEAST_PARAMETERS", 0)
    monkeypatch.setattr(inference, "computes_bfloat16", lambda device: False)
    assert loaded(folder, AUTO)[1] == {"dtype": "float32"}
    monkeypatch.setattr(inference, "computes_bfloat16", lambda device: True)
    model, facts = loaded(folder, AUTO)
    assert model.dtype == torch.bfloat16 and facts["dtype"] == "bfloat16" and not model.training
    assert 0 < facts["divergence"] < inference.DIVERGENCE
    monkeypatch.setattr(inference, "DIVERGENCE", facts["divergence"] / 2)
    model, refused = loaded(folder, AUTO)
    assert model.dtype == torch.float32 and refused == {**facts, "dtype": "float32"}


def test_divergence_is_the_mean_of_the_sum_over_the_vocabulary(folder):
    exact, rounded = (loaded(folder, dtype)[0] for dtype in ("float32", "bfloat16"))
    with torch.no_grad():
        ours, theirs = (
            one(torch.from_numpy(IDS)).logits.double().log_softmax(-1).numpy() for one in (rounded, exact)
        )  # fmt: skip
    expected = sum(
        float(np.exp(q) * (q - p)) for p, q in zip(ours.reshape(-1), theirs.reshape(-1), strict=True)
    ) / IDS.size  # fmt: skip
    assert divergence(rounded, exact, IDS) == pytest.approx(expected, rel=1e-2)
    assert divergence(exact, exact, IDS) == 0


def test_an_unknown_dtype_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"evaluation.dtype=float16; known: auto, float32, bfloat16"):
        check_dtype("float16", "evaluation.dtype")
