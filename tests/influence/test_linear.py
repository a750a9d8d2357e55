import pytest
import torch
import torch.nn.functional as F
from tiny import ARCHITECTURES, tiny_model
from torch import nn

from ifguide.influence.scorers.linear import FUSED, LinearMap, PackedLinearMap, activations_behind, can_pack, linear_map
from ifguide.models import tracked_layers

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT, BIAS = torch.randn(24, 16, generator=GENERATOR), torch.randn(24, generator=GENERATOR)
X = torch.randn(3, 5, 16, generator=GENERATOR)


@pytest.mark.skipif(not can_pack(WEIGHT), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize("activation", [None, *FUSED], ids=lambda a: getattr(a, "__name__", "none"))
def test_a_packed_map_is_the_layer_and_its_activation(activation):
    module = None if activation is None else activation()
    plain, packed = LinearMap(WEIGHT, module), PackedLinearMap(WEIGHT, module)
    for bias in (None, BIAS):
        expected = F.linear(X, WEIGHT, bias)
        expected = expected if module is None else module(expected)
        assert torch.allclose(plain(X, bias), expected) and torch.allclose(packed(X, bias), expected, atol=1e-5)


@pytest.mark.parametrize("make", [LinearMap, linear_map])
def test_a_product_is_added(make):
    y = torch.randn(3, 5, 24, generator=GENERATOR)
    assert torch.allclose(make(WEIGHT).added_to(y.clone(), X), y + X @ WEIGHT.T, atol=1e-5)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")
def test_float32_on_cpus_is_packed():
    assert type(linear_map(WEIGHT)) is PackedLinearMap


def test_only_float32_on_cpus_is_packed():
    assert type(linear_map(WEIGHT.double())) is LinearMap and type(linear_map(WEIGHT.bfloat16())) is LinearMap


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_activation_of_every_mlp_is_found(architecture):
    model = tiny_model(architecture)
    found = activations_behind(model, tracked_layers(model), lambda: model(torch.zeros(1, 2, dtype=torch.long)))
    assert len(found) == 2 and all("mlp" in name for name in found)


def test_an_activation_of_something_else_is_left_alone():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.act(self.linear(x) + x)

    block = Block()
    assert activations_behind(block, {"linear": block.linear}, lambda: block(torch.ones(1, 4))) == {}
