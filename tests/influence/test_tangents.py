"""A direction as tangents of layers, and attention that carries them."""

import copy

import pytest
import torch
from test_scorers import close, random_direction, score
from tiny import tiny_model
from torch import nn

from ifguide.influence.scorers import JVP
from ifguide.influence.scorers import tangents as tangents_module
from ifguide.influence.scorers.head import split_output_head
from ifguide.influence.scorers.jvp import hidden_tangents, reference_scores
from ifguide.influence.scorers.tangents import attention_with_tangent


def test_full_rank_is_exact_and_a_low_rank_says_what_it_loses(model, blocks):
    direction = random_direction(model)
    exact = score(JVP(), model, [direction], blocks)
    assert close(score(JVP(rank=31), model, [direction], blocks), exact, 1e-5)
    prepared = JVP(rank=2).prepare(copy.deepcopy(model), [direction], blocks)
    (lost,) = prepared.facts["share_of_direction_lost"]
    kept = {}
    for name, value in direction.items():
        u, s, v = torch.linalg.svd(value, full_matrices=False) if value.ndim == 2 else (None, None, None)
        kept[name] = value if u is None else u[:, :2] * s[:2] @ v[:2]
    matrices = [name for name, value in direction.items() if value.ndim == 2]
    norm = sum(direction[name].square().sum() for name in matrices) ** 0.5
    assert lost == pytest.approx(float(sum((direction[n] - kept[n]).square().sum() for n in matrices) ** 0.5 / norm))
    assert close(prepared(blocks)[0], reference_scores(model, kept, blocks), 1e-5)


def test_attention_with_tangent_equals_forward_mode():
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, 3, 10, 4, dtype=torch.float64, generator=generator) for _ in range(6)]
    window = torch.ones(10, 10, dtype=torch.bool).tril() & ~torch.ones(10, 10, dtype=torch.bool).tril(-4)

    for mask in (None, window[None, None]):
        allowed = torch.ones(10, 10, dtype=torch.bool).tril() if mask is None else window

        def plainly(q, k, v, allowed=allowed):
            return (0.7 * q @ k.transpose(-1, -2)).masked_fill(~allowed, float("-inf")).softmax(-1) @ v

        expected = torch.func.jvp(plainly, tuple(values[:3]), tuple(values[3:]))
        ours = attention_with_tangent(*values, scaling=0.7, mask=mask)
        for value, theirs in zip(ours, expected, strict=True):
            assert torch.allclose(value, theirs, atol=1e-12)


def test_values_may_be_of_another_size():
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, 3, 10, n, dtype=torch.float64, generator=generator) for n in (4, 4, 7, 4, 4, 7)]
    hidden = ~torch.ones(10, 10, dtype=torch.bool).tril()

    def plainly(q, k, v):
        return (q @ k.transpose(-1, -2)).masked_fill(hidden, float("-inf")).softmax(-1) @ v

    expected = torch.func.jvp(plainly, tuple(values[:3]), tuple(values[3:]))
    for value, theirs in zip(attention_with_tangent(*values, scaling=1.0), expected, strict=True):
        assert value.shape == (2, 3, 10, 7) and torch.allclose(value, theirs, atol=1e-12)


@pytest.mark.parametrize("moved", ["model.layers.1.", "v_proj", "k_proj", "mlp"])
def test_attention_that_is_scaled_otherwise_and_moved_in_part(moved, blocks):
    """By another factor than 1/√E; where queries, keys or values have no tangent, or none has in the first block."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "granite", vocab_size=60, attention_multiplier=2.0, num_key_value_heads=1, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20 if parameter.ndim > 1 else 1)  # at first all tokens attend to all alike
    direction = {name: value for name, value in random_direction(model).items() if moved in name}
    assert close(score(JVP(), model, [direction], blocks)[0], reference_scores(model, direction, blocks), 1e-5)


def test_attention_that_has_no_formula_here_is_refused():
    values = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match=r"attention uses softcap; use scorer=jvp scorer\.form=reference"):
        tangents_module._attention(nn.Module(), values, values, values, None, softcap=50.0)


def test_a_sliding_window_is_honoured(blocks):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "mistral", vocab_size=60, sliding_window=3, num_key_value_heads=1, max_position_embeddings=64,
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float64).eval()
    direction = random_direction(model)
    assert close(score(JVP(), model, [direction], blocks)[0], reference_scores(model, direction, blocks), 1e-5)


def test_where_no_layer_moves_no_hidden_state_does(blocks):
    model = tiny_model()
    body, _ = split_output_head(model)
    hidden, tangent = hidden_tangents(model, body, {}, blocks)
    assert torch.allclose(hidden, body(blocks)) and tangent.shape == hidden.shape and not tangent.any()


def test_a_direction_of_nothing_loses_nothing_by_its_rank(model):
    nothing = {name: torch.zeros_like(value) for name, value in random_direction(model).items()}
    assert tangents_module.layer_tangents(model, nothing, 1)[1] == 0
