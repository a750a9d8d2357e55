"""FLOPs from shapes beside those that torch counts while a tiny model computes."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from ifguide.cost import kinds, shape_of
from ifguide.influence.scorers import JVP, Positional
from ifguide.models import ModelSettings

SHAPES = {
    "gpt2": dict(n_embd=32, n_layer=3, n_head=2, n_positions=64),
    "gpt_neox": dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64),
    "llama": dict(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48
    ),
}
ROWS, LENGTH = 4, 24


@pytest.fixture(scope="module", params=SHAPES)
def shape(request):
    settings = ModelSettings(architecture=request.param, settings=SHAPES[request.param], attention="eager")
    return shape_of(settings, 128)


def counted(shape, kind):
    model = shape.model().eval()
    kind.run(model, ROWS, LENGTH)  # what happens once only
    with FlopCounterMode(display=False) as counter:
        kind.run(model, ROWS, LENGTH)
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", [kinds.forward, kinds.train, kinds.Generating(2, 5)], ids=lambda kind: kind.name)
def test_products_are_counted_exactly(shape, kind):
    assert kind.flops(shape, ROWS, LENGTH) == counted(shape, kind)


def test_a_gradient_counts_what_the_first_layers_would_hand_down(shape):
    """The embeddings have no gradient, so what the first block's first layers were given needs none."""
    ours, torch_s = kinds.gradient.flops(shape, ROWS, LENGTH), counted(shape, kinds.gradient)
    assert 0 <= ours - torch_s <= 2 * ROWS * LENGTH * shape.block_weights / shape.layers


@pytest.mark.parametrize(
    "scorer, over", [(JVP(form="reference"), 0.0), (Positional(), 0.15)], ids=["jvp", "positional"]
)
def test_scores_are_so_many_forward_passes(shape, scorer, over):
    """Positional scores: attention is passed through once less than the layers, so they are at most what is said."""
    kind = kinds.Scoring(scorer)
    torch_s = counted(shape, kind)
    assert torch_s <= kind.flops(shape, ROWS, LENGTH) <= torch_s * (1 + over)


def test_the_fast_form_of_pythia_160m_takes_what_was_worked_out_by_hand():
    pythia = dict(
        vocab_size=50304, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
    )
    shape = shape_of(ModelSettings(architecture="gpt_neox", settings=pythia), 50304)
    assert shape.parameters == pytest.approx(162.3e6, rel=1e-3)
    assert kinds.Scoring(JVP()).flops(shape, 1, 2048) / 2048 == pytest.approx(0.89e9, rel=0.01)


def test_a_shape_of_fewer_blocks_has_the_same_widths(shape):
    smaller = shape.smaller(1)
    assert smaller.layers == 1 and smaller.block_weights * 3 == shape.block_weights
    assert (smaller.width, smaller.vocabulary) == (shape.width, shape.vocabulary)
    assert smaller.head(LENGTH) == shape.head(LENGTH) and smaller.body(LENGTH) * 3 == shape.body(LENGTH)
