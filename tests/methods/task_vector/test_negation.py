from dataclasses import replace

import pytest
import torch
from tiny import tiny_model

from ifguide.methods.dexperts import ExpertTraining
from ifguide.methods.task_vector import TaskVector, negate
from ifguide.training.optimization import Optimization

ANTI = ExpertTraining(Optimization(learning_rate=1e-3, batch_size=4, epochs=1), toxic=True)


def moved(architecture):
    """A model, and another of the same kind with a buffer of whole numbers."""
    models = [tiny_model(architecture, seed=seed) for seed in (0, 1)]
    for number, model in enumerate(models):
        model.register_buffer("counts", torch.full((3,), number))
    return models


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_every_weight_is_moved_once_and_nothing_else(model, alpha):
    base, toxic = moved(model.config.model_type)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    negate(base, toxic, alpha=alpha)
    learned, theirs, after = dict(model.named_parameters(remove_duplicate=False)), toxic.state_dict(), base.state_dict()
    assert len(after) > 10
    for name, value in after.items():
        expected = before[name] - alpha * (theirs[name] - before[name]) if name in learned else before[name]
        assert torch.allclose(value, expected, atol=1e-14) and value.dtype == before[name].dtype
    if model.config.tie_word_embeddings:
        assert base.get_input_embeddings().weight is base.get_output_embeddings().weight


def test_without_weight_a_model_is_what_it_was(model):
    base, toxic = moved(model.config.model_type)
    with torch.no_grad():
        next(base.parameters())[0, 0] = -0.0
    before = {name: value.clone() for name, value in base.state_dict().items()}
    negate(base, toxic, alpha=0.0)
    for name, value in base.state_dict().items():
        assert value.numpy().tobytes() == before[name].numpy().tobytes(), name


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="have the same weights"):
        negate(tiny_model("gpt2"), tiny_model("llama"), alpha=0.5)


def test_mistakes_are_named():
    for alpha in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"^alpha="):
            TaskVector(anti_expert=ANTI, alpha=alpha)
    kept = replace(ANTI.optim, epochs=0)
    for name, other in (
        ("toxic=", {"toxic": False}),
        ("pretrained=x", {"pretrained": "x"}),
        (r"optim\.epochs=0", {"optim": kept}),
    ):
        with pytest.raises(ValueError, match=rf"^anti_expert\.{name}"):
            TaskVector(anti_expert=replace(ANTI, **other))
