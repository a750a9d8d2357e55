"""The output head apart from the body of a model, and the loss behind it."""

import pytest
import torch
from test_scorers import close, random_direction, score
from tiny import tiny_model
from torch import nn

from ifguide.influence.scorers import JVP
from ifguide.influence.scorers.head import OutputHead, plain_output_head, split_output_head
from ifguide.influence.scorers.jvp import loss_tangents, reference_scores
from ifguide.objectives.language_modeling import token_losses


def test_a_model_whose_class_does_not_name_its_body_is_split_too(blocks, monkeypatch):
    model = tiny_model()
    named = split_output_head(model)[0](blocks)
    monkeypatch.setattr(type(model), "base_model_prefix", "nothing")
    assert model.base_model is model
    assert torch.equal(split_output_head(model)[0](blocks), named)


def test_hidden_loss_tangents_equal_those_of_the_logits():
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(8, 60, dtype=torch.float64)
    hidden, tangents = (torch.randn(n, 2, 7, 8, dtype=torch.float64, generator=generator) for n in (1, 3))
    ids = torch.randint(60, (2, 7), generator=generator)
    scores = OutputHead(head.weight.detach(), head.bias.detach()).loss_tangents(hidden[0], tangents, ids)
    for ours, tangent in zip(scores, tangents, strict=True):
        assert torch.allclose(ours, loss_tangents(head(hidden[0]), tangent @ head.weight.T, ids), atol=1e-12)


def test_a_head_that_is_not_linear_is_refused(blocks):
    model = tiny_model()
    linear = model.embed_out if hasattr(model, "embed_out") else model.get_output_embeddings()
    linear.register_forward_hook(lambda module, inputs, output: 3 * output.tanh())
    assert split_output_head(model)  # the hook belongs to the head, so both see it
    model.register_forward_hook(lambda module, inputs, output: setattr(output, "logits", output.logits.tanh()))
    with pytest.raises(ValueError, match="form=reference"):
        split_output_head(model)


def test_scaled_and_capped_heads_are_exact(blocks):
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = dict(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    for architecture, options in (
        ("granite", dict(logits_scaling=0.1)),
        ("cohere", dict(logit_scale=3.0, pad_token_id=0)),
        ("gemma3_text", dict(final_logit_softcapping=0.5, head_dim=8)),
    ):
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **shape, num_key_value_heads=1, **options)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float64).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        assert plain_output_head(model) is None, architecture
        direction = random_direction(model)
        expected = reference_scores(model, direction, blocks)
        assert close(score(JVP(), model, [direction], blocks)[0], expected, 1e-4), architecture


def test_a_head_whose_logits_are_scaled_has_its_bias_scaled(blocks):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "phi", vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    model.register_forward_hook(lambda module, inputs, output: setattr(output, "logits", 3 * output.logits))
    body, head = split_output_head(model)
    assert torch.allclose(body(blocks) @ head.weight.T + head.bias, model(blocks).logits)


def test_a_soft_cap_is_seen_where_logits_are_small():
    model = tiny_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-3)
    assert split_output_head(model)
    model.register_forward_hook(
        lambda module, inputs, output: setattr(output, "logits", 30 * torch.tanh(output.logits / 30))
    )
    with pytest.raises(ValueError, match="form=reference"):
        split_output_head(model)


def test_loss_tangents_equal_a_central_difference():
    generator = torch.Generator().manual_seed(0)
    logits, tangents = (torch.randn(2, 5, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    ids = torch.randint(7, (2, 5), generator=generator)
    step = 1e-6
    difference = token_losses(logits + step * tangents, ids) - token_losses(logits - step * tangents, ids)
    assert torch.allclose(loss_tangents(logits, tangents, ids), difference / (2 * step), atol=1e-8)
