"""Layers that are given the tokens of all blocks as rows count blocks, not tokens."""

import pytest
import torch
import torch.nn.functional as F
from tiny import VOCABULARY, tiny_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ifguide.influence.chain import InfluenceSettings
from ifguide.influence.curvature import Curvature
from ifguide.influence.direction import precondition_direction
from ifguide.influence.factors import CurvatureError, by_layer, check_counts
from ifguide.influence.per_block import flattened_layers
from ifguide.models import ModelSettings, layer_matrix, tracked_layers, untracked
from ifguide.objectives.language_modeling import token_losses
from ifguide.stages.influence import Factors

SMALL = dict(vocab_size=VOCABULARY, max_position_embeddings=32, num_hidden_layers=2, num_attention_heads=2)


def build(architecture, **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SMALL | settings)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def opt():
    return build("opt", hidden_size=16, ffn_dim=24, word_embed_proj_dim=16)


def qwen2_moe():
    return build(
        "qwen2_moe", hidden_size=16, intermediate_size=24, num_key_value_heads=1, num_experts=3, num_experts_per_tok=2,
        moe_intermediate_size=8, shared_expert_intermediate_size=8,
    )  # fmt: skip


class Experts(nn.Module):
    """Each token is read by one of three linear experts."""

    def __init__(self, size):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(size, size) for _ in range(3)])

    def forward(self, x):
        rows, chosen = x.flatten(0, 1), (x.flatten(0, 1)[:, 0] > 0).long()  # never the third
        out = torch.zeros_like(rows)
        for index in (0, 1):
            where = (chosen == index).nonzero()[:, 0]
            out = out.index_add(0, where, F.silu(self.experts[index](rows[where])))
        return out.view_as(x)


def routed():
    model = tiny_model("llama", dtype=torch.float32)
    for block in model.model.layers:
        block.mlp = Experts(16)
    return model


def eigenvalues_by_autograd(model, factors, blocks):
    """The means over blocks of the squares of their gradients in the eigenbasis, by one backward pass per block."""
    found = {name: 0 for name in factors}
    for block in blocks:
        loss = token_losses(model(input_ids=block[None], use_cache=False).logits, block[None]).sum()
        for name, parts in factors.items():
            layer = model.get_submodule(name)
            names = ["weight"] + (["bias"] if layer.bias is not None else [])
            gradients = torch.autograd.grad(
                loss, [getattr(layer, n) for n in names], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            matrix = layer_matrix(layer, *gradients, *([None] if len(names) == 1 else []))
            rotated = parts["gradient_eigenvectors"].T @ matrix @ parts["activation_eigenvectors"]
            found[name] = found[name] + rotated.square() / len(blocks)
    return found


@pytest.mark.parametrize("make", [opt, qwen2_moe, routed])
def test_eigenvalues_are_means_over_blocks(make, blocks):
    model = make()
    layers = [name for name in tracked_layers(model) if not name.endswith("experts.2")]
    curvature = Curvature(empirical_fisher=True)
    factors = by_layer(curvature.fit(model, blocks.numpy(), batch_size=2, seed=0, layers=layers, progress=False))
    assert {int(parts["num_lambda_processed"]) for parts in factors.values()} == {len(blocks)}
    for name, expected in eigenvalues_by_autograd(model, factors, blocks).items():
        ours = factors[name]["lambda_matrix"] / len(blocks)
        assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.max())), name


def test_only_layers_with_rows_of_tokens_are_changed(blocks):
    flat, size = flattened_layers(opt(), list(tracked_layers(opt())), blocks.numpy(), 2)
    assert {name.rpartition(".")[2] for name in flat} == {"fc1", "fc2"} and size == 2
    assert flattened_layers(tiny_model(), list(tracked_layers(tiny_model())), blocks.numpy(), 2) == ([], 2)
    layers = [name for name in tracked_layers(routed()) if not name.endswith("experts.2")]
    flat, size = flattened_layers(routed(), layers, blocks.numpy(), 2)
    assert len(flat) == 4 and size == 1, "routed tokens are of one block at a time"


def test_a_layer_that_is_never_called_is_refused(blocks):
    with pytest.raises(CurvatureError, match=r"experts\.2 is called by none of the blocks: .*influence\.layers"):
        Curvature().fit(routed(), blocks.numpy(), batch_size=2, seed=0, progress=False)


@pytest.mark.parametrize("architecture, is_refused", [("mamba", True), ("gpt_neox", False), ("qwen2_moe", False)])
def test_that_is_told_before_anything_is_trained(architecture, is_refused, corpus):
    settings = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    if architecture == "mamba":
        settings = dict(hidden_size=16, num_hidden_layers=2, state_size=4)
    loading = ModelSettings(architecture=architecture, settings=settings, attention="eager")
    stage = dict(proxy=None, data=None, influence=InfluenceSettings(), loading=loading, trainer=None)
    Factors(**stage, curvature=Curvature(strategy="identity")).check_corpus(corpus)
    if is_refused:
        with pytest.raises(ValueError, match=r"dt_proj is called by none of the blocks"):
            Factors(**stage, curvature=Curvature()).check_corpus(corpus)
        loading = dict(stage, influence=InfluenceSettings(layers=".[^d]._proj"))
        Factors(**loading, curvature=Curvature()).check_corpus(corpus)
    else:
        Factors(**stage, curvature=Curvature()).check_corpus(corpus)


def test_factors_that_count_something_else_are_refused(blocks):
    model = tiny_model(dtype=torch.float32)
    factors = by_layer(Curvature().fit(model, blocks.numpy(), batch_size=2, seed=0, progress=False))
    gradients = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    precondition_direction(model, gradients, factors, Curvature())
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h"
    factors[name]["num_lambda_processed"] *= 9
    for call in (
        lambda: check_counts(factors, 3),
        lambda: precondition_direction(model, gradients, factors, Curvature()),
    ):
        with pytest.raises(CurvatureError, match=f"^{name} counts 27 examples where there are 3 blocks"):
            call()


def test_the_share_that_is_tracked_is_known():
    assert untracked(tiny_model())[1] is None and untracked(tiny_model())[0] > 0.9
    share, largest = untracked(qwen2_moe())
    assert 0.3 < share < 0.9 and largest.endswith("experts.gate_up_proj")
