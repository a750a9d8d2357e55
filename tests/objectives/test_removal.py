"""Removal: what the model reads, and that nothing depends on which tokens were removed."""

import pytest
import torch
from tiny import VOCABULARY, tiny_model

from ifguide.objectives import LanguageModeling, Removal, SuppressedLanguageModeling
from ifguide.objectives.language_modeling import cross_entropy
from ifguide.objectives.removal import kept_cross_entropy, replaced
from ifguide.training.masked import MaskedLoss
from ifguide.training.module import CausalLanguageModel

END = 7


@pytest.fixture
def mask(blocks):
    found = torch.rand(blocks.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    found[:, 0] = False
    return found


def gradients(objective, ids, mask):
    """The loss and its gradients, by way of the module that trains."""
    model = tiny_model()
    batch = {"input_ids": ids} if mask is None else {"input_ids": ids, "mask": mask}
    loss = CausalLanguageModel(model, objective, None, steps=1, seed=0, end_of_text=END).loss(batch)
    return [loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)]


def equal(ours, theirs):
    return all((a is None and b is None) or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("token, reads", [(None, END), (3, 3)])
def test_masked_tokens_are_neither_read_nor_learned(blocks, mask, token, reads):
    """Against a loop over tokens, each predicted in a forward pass of its own."""
    model, total = tiny_model(), torch.zeros((), dtype=torch.float64)
    for ids, removed in zip(blocks, mask, strict=True):
        seen = [reads if gone else id for id, gone in zip(ids.tolist(), removed.tolist(), strict=True)]
        for t in range(1, len(seen)):
            if not removed[t]:
                total = total - model(torch.tensor([seen[:t]])).logits[0, -1].log_softmax(-1)[ids[t]]
    expected = total / (len(blocks) * (blocks.shape[1] - 1))
    assert torch.allclose(gradients(Removal(token=token), blocks, mask)[0], expected, rtol=0, atol=1e-6)


def test_nothing_depends_on_which_tokens_were_removed(blocks, mask):
    others = torch.where(mask, (blocks + 11) % VOCABULARY, blocks)
    assert (blocks != others).any()
    assert equal(gradients(Removal(), blocks, mask), gradients(Removal(), others, mask))
    dropped = SuppressedLanguageModeling(penalty=0)  # where they are read, it does
    assert not equal(gradients(dropped, blocks, mask), gradients(dropped, others, mask))


def test_nothing_removed_is_exactly_cross_entropy(blocks, mask):
    nothing = torch.zeros_like(mask)
    assert equal(gradients(Removal(), blocks, nothing), gradients(LanguageModeling(), blocks, None))
    assert equal(gradients(Removal(token=3), blocks, nothing), gradients(LanguageModeling(), blocks, None))


def test_the_first_token_of_a_block_has_no_loss_and_is_replaced(blocks):
    first = torch.zeros(blocks.shape, dtype=torch.bool)
    first[:, 0] = True
    logits = torch.randn(*blocks.shape, VOCABULARY, dtype=torch.float64)
    assert torch.equal(kept_cross_entropy(logits, blocks, first), cross_entropy(logits, blocks))
    read = replaced(blocks, first, token=END)
    assert (read[:, 0] == END).all() and torch.equal(read[:, 1:], blocks[:, 1:])


def test_what_it_cannot_do_is_refused(blocks, mask):
    with pytest.raises(ValueError, match="needs the mask"):
        gradients(Removal(), blocks, None)
    with pytest.raises(ValueError, match="needs the id of a reserved token"):
        Removal().inputs(blocks, mask, None)
    for token in (-1, 2.5, True):
        with pytest.raises(ValueError, match=f"^token={token}: the id of a token"):
            Removal(token=token)
    with pytest.raises(ValueError, match=r"^token=60: the model reads ids below 60"):
        Removal(token=60).check(60)
    Removal(token=59).check(60)
    Removal(token=0).check(60)
    with pytest.raises(ValueError, match=r"^objective=Removal: it changes what the model reads"):
        MaskedLoss(Removal())
