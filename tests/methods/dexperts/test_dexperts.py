import pytest
import torch
from tiny import VOCABULARY, tiny_model
from transformers import TopPLogitsWarper

from ifguide.decoding import Nucleus
from ifguide.decoding.generation import sample_continuations
from ifguide.methods.dexperts import DExperts, ExpertTraining
from ifguide.methods.dexperts.decoder import ExpertDecoder
from ifguide.training.optimization import Optimization

PROMPTS = [[0, 5, 9], [0, 7], [0, 5, 11], [0, 3, 4, 5, 6]]
OPTIONS = dict(samples=5, max_new_tokens=6, end_of_text=0, rows=10, seed=0)


def decoder(architecture="gpt_neox", **options):
    experts = (tiny_model(architecture, seed=seed) for seed in (1, 2))
    return ExpertDecoder(*experts, **(dict(alpha=2.0, top_p=0.9) | options))


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
@torch.no_grad()
def test_logits_are_those_of_the_formula(architecture):
    """Cached steps with rows that end, beside plain forward passes over whole texts."""
    expert, anti_expert = (tiny_model(architecture, seed=seed) for seed in (1, 2))
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[0, 5, 9], [0, 7, 2]])
    steps = ExpertDecoder(expert, anti_expert, alpha=1.5, top_p=0.8).start(ids, 3)
    ids = ids.repeat_interleave(3, 0)
    for step in range(4):
        logits = 3 * torch.randn(len(ids), VOCABULARY, dtype=torch.float64, generator=generator)
        base = TopPLogitsWarper(0.8)(None, logits)
        plus, minus = (model(ids).logits[:, -1] for model in (expert, anti_expert))
        assert torch.allclose(steps(ids, logits), base + 1.5 * (plus - minus), atol=1e-6)
        assert torch.isinf(base).any()
        alive = torch.ones(len(ids), dtype=torch.bool)
        if step == 1:
            alive[[0, 4]] = False
            steps.keep(alive)
        ids = torch.cat([ids[alive], torch.randint(VOCABULARY, (int(alive.sum()), 1), generator=generator)], 1)


def test_without_weight_it_is_the_base():
    expected = sample_continuations(tiny_model(), PROMPTS, decoder=Nucleus(top_p=0.9), **OPTIONS)
    assert (sample_continuations(tiny_model(), PROMPTS, decoder=decoder(alpha=0.0), **OPTIONS) == expected).all()
    assert (sample_continuations(tiny_model(), PROMPTS, decoder=decoder(), **OPTIONS) != expected).any()


def test_equal_experts_cancel():
    expert = tiny_model(seed=1)
    expected = sample_continuations(tiny_model(), PROMPTS, decoder=Nucleus(top_p=0.9), **OPTIONS)
    same = ExpertDecoder(expert, expert, alpha=5.0, top_p=0.9)
    assert (sample_continuations(tiny_model(), PROMPTS, decoder=same, **OPTIONS) == expected).all()


def test_mistakes_are_named():
    optim = Optimization(learning_rate=1e-3, batch_size=4, epochs=1)
    training = ExpertTraining(optim=optim)
    for options in ({"alpha": -1.0}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
            DExperts(experts=training, **options)
    with pytest.raises(ValueError, match=r"^toxic_at_least=0\.0"):
        ExpertTraining(optim=optim, toxic_at_least=0.0)
    assert [a.toxic for a in DExperts(experts=training).auxiliaries.values()] == [False, True]
