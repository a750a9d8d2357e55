import pytest
import torch

from ifguide.decoding import Nucleus
from ifguide.decoding.nucleus import finite_softmax, nucleus_logits
from ifguide.models import LoadOptions
from ifguide.workspace import describe


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = Nucleus(top_p=0.8)(None, logits).softmax(-1)
    assert torch.allclose(kept, torch.tensor([[0.625, 0.375, 0.0, 0.0]]), atol=1e-6)
    for options in ({"top_p": 0}, {"top_p": 1.1}, {"temperature": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
            Nucleus(**options)


@pytest.mark.parametrize("spread", [0.1, 1, 8, 30])
@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.9, 0.999])
def test_the_nucleus_is_what_sorting_finds(spread, top_p):
    logits = torch.randn(40, 3000, generator=torch.Generator().manual_seed(int(spread))) * spread
    kept = Nucleus(top_p=top_p)(None, logits) > -torch.inf
    probabilities = logits.double().softmax(-1)
    for row, inside in zip(probabilities, kept, strict=True):
        assert row[inside].min() > (row[~inside].max() if (~inside).any() else 0), "the most probable ones"
        assert row[inside].sum() >= top_p - 1e-6 and row[inside].sum() - row[inside].min() < top_p + 1e-6, "no more"


def test_a_nucleus_of_equals_holds_all_of_them():
    logits = torch.tensor([[0.0, 0.0, 0.0, -200.0], [5.0, 5.0, -torch.inf, -torch.inf]])
    assert (Nucleus(top_p=0.4)(None, logits) > -torch.inf).tolist() == [
        [True] * 3 + [False],
        [True, True, False, False],
    ]


def test_it_is_its_own_decoder_and_describes_itself():
    plain = Nucleus(top_p=0.8)
    assert plain.load({}, None, "cpu", LoadOptions()) is plain and plain.auxiliaries == {}
    assert describe(plain) == {"class": "Nucleus", "top_p": 0.8, "temperature": 1.0}
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    assert (Nucleus(top_p=1.0, temperature=0.5)(None, logits) == 2 * logits).all()


@pytest.mark.parametrize("row", [[1.0, torch.nan], [1.0, torch.inf], [-torch.inf, -torch.inf]])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_logits_that_are_not_finite_are_refused(row, top_p):
    logits = torch.tensor([[1.0, -torch.inf], row])
    with pytest.raises(ValueError, match=r"^the next token's logits are not finite: "):
        finite_softmax(nucleus_logits(logits, top_p))


def test_a_nucleus_of_everything_leaves_no_token_out():
    logits = torch.linspace(0, -80, 50_000)[None].repeat(3, 1)
    assert (nucleus_logits(logits, 0.9999999) > -torch.inf).float().mean() < 1, "what sums of float32 come to"
    kept = nucleus_logits(logits, 1.0)
    assert torch.equal(kept, logits) and kept.data_ptr() != logits.data_ptr(), "one's own, to change"
