"""A model's cache is used where it gives what the whole text gives, and nowhere else."""

import logging

import pytest
import torch
from tiny import ARCHITECTURES, VOCABULARY, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from ifguide.decoding import Nucleus
from ifguide.decoding.cached import TRUSTED, NextLogits, fault_of_cache
from ifguide.decoding.generation import draw, sample_continuations

PROMPTS = [[3, 4, 5], [6, 7, 8], [9]]
SETTINGS = dict(decoder=Nucleus(top_p=1.0), samples=2, max_new_tokens=4, end_of_text=0, rows=4, seed=3)


def small(architecture, **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **settings)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def openai_gpt():  # leaves the cache aside
    return small("openai-gpt", n_embd=16, n_layer=2, n_head=2, n_positions=32)


def mamba():  # fails on it, or on what is done with it
    return small("mamba", hidden_size=16, num_hidden_layers=2, state_size=4)


@torch.no_grad()
def sampled_from_whole_texts(model):
    """What `sample_continuations` draws, one row at a time from the whole text."""
    steps, continuations = SETTINGS["max_new_tokens"], {}
    for number, batch in enumerate([[2], [0, 1]]):  # the shorter prompts come first
        generator = torch.Generator().manual_seed(SETTINGS["seed"] * 1_000_003 + number)
        rows = [list(PROMPTS[prompt]) for prompt in batch for _ in range(2)]
        for _ in range(steps):
            uniform = torch.rand(len(rows), 1, generator=generator, dtype=torch.float64)
            for row, one in zip(rows, uniform, strict=True):
                logits = model(torch.tensor([row]), use_cache=False).logits[:, -1]
                row.append(int(draw(logits.float().softmax(-1), one[None])))
        for place, row in enumerate(rows):
            new = row[-steps:]
            end = new.index(0) if 0 in new else steps
            continuations.setdefault(batch[place // 2], []).append(new[:end] + [0] * (steps - end))
    return [continuations[prompt] for prompt in range(len(PROMPTS))]


@pytest.mark.parametrize("make", [openai_gpt, mamba, tiny_model], ids=lambda make: make.__name__)
def test_samples_are_those_of_the_whole_text_and_a_line_says_what_is_slower(make, caplog):
    model = make()
    with caplog.at_level(logging.WARNING, "ifguide"):
        ours = sample_continuations(model, PROMPTS, **SETTINGS)
        sample_continuations(model, PROMPTS[:1], **SETTINGS)
    assert ours.tolist() == sampled_from_whole_texts(model)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("ifguide")]
    assert TRUSTED[model] == (make is tiny_model) == (not said)
    if said:
        assert len(said) == 1, "once for each model"
        assert said[0].startswith(f"{type(model).__name__} generates without a cache, slower: ")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_right_cache_is_used(architecture):
    model = tiny_model(architecture, dtype=torch.float32)
    assert fault_of_cache(model, torch.tensor(PROMPTS[:2])) is None
    assert fault_of_cache(model, torch.tensor([[5]])) is None
    longest = torch.arange(64)[None] % VOCABULARY
    assert fault_of_cache(model, longest) is None, "a prompt that fills the context"
    assert fault_of_cache(model.bfloat16(), torch.tensor(PROMPTS[:2])) is None


def test_the_check_draws_nothing():
    model = tiny_model("gpt2")
    before = torch.get_rng_state()
    NextLogits(model, torch.tensor(PROMPTS[:2]), 2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", [openai_gpt, lambda: tiny_model("llama")])
@torch.no_grad()
def test_rows_that_have_ended_are_forgotten(make):
    model, prompts = make(), torch.tensor(PROMPTS[:2])
    read, rows = NextLogits(model, prompts, 2), prompts.repeat_interleave(2, 0)
    assert torch.allclose(read(rows), model(rows, use_cache=False).logits[:, -1], atol=1e-5)
    alive = torch.tensor([True, False, True, True])
    read.keep(alive)
    rows = torch.cat([rows[alive], torch.tensor([[1], [2], [3]])], 1)
    assert torch.allclose(read(rows), model(rows, use_cache=False).logits[:, -1], atol=1e-5)
