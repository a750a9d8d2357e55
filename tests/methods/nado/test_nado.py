"""R̂ of a tiny model: its batches, its training, and decoding with it."""

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, tiny_model

from ifguide.classifiers.ngrams import NgramClassifier
from ifguide.decoding import Nucleus
from ifguide.decoding.generation import sample_continuations
from ifguide.methods.nado import NADO, GuidanceHead, GuidanceTraining, GuidedDecoder, LabelledSamples
from ifguide.methods.nado.model import GuidedModel, new_head, read
from ifguide.methods.nado.samples import guidance_loss
from ifguide.methods.samples import Sampling
from ifguide.training.context import TrainingContext
from ifguide.training.optimization import Optimization
from ifguide.training.trainer import TrainerSettings

PROMPTS = [[0, 5, 9], [0, 7], [0, 5, 11], [0, 3, 4, 5, 6]]
OPTIONS = dict(samples=5, max_new_tokens=6, end_of_text=0, rows=10, seed=0)
CPU = TrainerSettings(micro_batch_size=64, progress=False)
BAD = range(7, 15)  # tokens that a text must not have


def head_of(model, seed=3, relative=False, width=0):
    head = new_head(model, width=width, relative=relative, base_rate=0.8, seed=0).to(model.dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return head


def decoder(model, head, *, alpha=1.0, top_p=0.9):
    return GuidedDecoder(GuidedModel(model, head), alpha=alpha, top_p=top_p)


def training(**options):
    optim = Optimization(learning_rate=1e-2, batch_size=64, epochs=4, weight_decay=0.0)
    classifier = NgramClassifier(None, name="never asked")
    return GuidanceTraining(**(dict(optim=optim, sampling=Sampling(samples=40), classifier=classifier) | options))


def samples_of(model, prompts, count=40, new_tokens=5):
    tokens = sample_continuations(
        model, prompts, decoder=Nucleus(top_p=1.0), samples=count, max_new_tokens=new_tokens, end_of_text=0,
        rows=1000, seed=1,
    )  # fmt: skip
    return LabelledSamples(prompts, tokens, 1.0 - np.isin(tokens, BAD).any(-1), end_of_text=0)


def test_a_batch_ends_where_its_texts_end():
    tokens = np.array([[[4, 5, 6], [4, 0, 0]], [[0, 0, 0], [8, 9, 0]]])
    samples = LabelledSamples([[0, 1], [0, 1, 2]], tokens, np.array([[1, 0], [0.25, 1]]), end_of_text=0)
    batch = samples[np.array([1, 2, 3])]
    assert batch["input_ids"].tolist() == [[0, 1, 4, 0, 0, 0], [0, 1, 2, 0, 0, 0], [0, 1, 2, 8, 9, 0]]
    assert batch["first"].tolist() == [2, 3, 3] and batch["labels"].tolist() == [0, 0.25, 1]
    assert batch["counted"].tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert len(samples) == 4 and len(samples.of_prompts(np.array([1]))) == 2
    assert samples.of_prompts(np.array([1]))[np.array([0])]["labels"].tolist() == [0.25]


@pytest.mark.parametrize("consistency", [0.0, 2.0])
def test_the_loss_of_a_batch_is_that_of_its_texts_one_by_one(consistency):
    """Padding changes nothing, and each token is predicted from the one before it."""
    model, tokens = tiny_model(), np.array([[[4, 5, 6, 9]], [[0, 0, 0, 0]], [[8, 9, 0, 0]]])
    head, prompts = head_of(model), [[0, 1], [0, 1, 2], [0, 3, 9, 4]]
    samples = LabelledSamples(prompts, tokens, np.array([[1], [0.25], [0]]), end_of_text=0)
    found = guidance_loss(model, head, samples[np.arange(3)], consistency=consistency)
    total = 0.0
    for n, length in enumerate((4, 1, 3)):
        ids = torch.tensor([*prompts[n], *tokens[n, 0, :length]])[None]
        logits, hidden = (one[0] for one in read(model, ids))
        log_p, r = logits.log_softmax(-1), torch.sigmoid(head(hidden))
        for place in range(len(prompts[n]), ids.shape[1]):
            a, label = r[place - 1, ids[0, place]], float(samples.labels_PS[n, 0])
            total -= label * a.log() + (1 - label) * (1 - a).log()
            if place + 1 < ids.shape[1]:
                e = (log_p[place].exp() * r[place]).sum()
                total += consistency * (e * (e / a).log() + (1 - e) * ((1 - e) / (1 - a)).log())
    assert float(found) == pytest.approx(float(total) / tokens.size, rel=1e-9)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
@torch.no_grad()
def test_logits_are_those_of_the_formula(architecture):
    """Cached steps with rows that end, beside plain forward passes over whole texts."""
    model = tiny_model(architecture)
    head = head_of(model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[0, 5, 9], [0, 7, 2]])
    steps = decoder(model, head, alpha=1.5, top_p=0.8).start(ids, 3)
    plain = Nucleus(top_p=0.8)
    ids = ids.repeat_interleave(3, 0)
    for step in range(4):
        logits = 3 * torch.randn(len(ids), VOCABULARY, dtype=torch.float64, generator=generator)
        r = torch.sigmoid(head(read(model, ids)[1][:, -1])).log()
        expected = (plain(ids, logits) + 1.5 * r).softmax(-1)
        assert torch.allclose(steps(ids, logits).softmax(-1), expected, atol=1e-6)
        alive = torch.ones(len(ids), dtype=torch.bool)
        if step == 1:
            alive[[0, 4]] = False
            steps.keep(alive)
        ids = torch.cat([ids[alive], torch.randint(VOCABULARY, (int(alive.sum()), 1), generator=generator)], 1)


def test_without_weight_or_without_guidance_it_is_the_base_bit_for_bit():
    model = tiny_model()
    untrained = new_head(model, width=8, relative=True, base_rate=0.9, seed=0).double()
    ids, logits = torch.tensor([[0, 5, 9]]), torch.randn(2, VOCABULARY)
    for head, alpha in ((head_of(model), 0.0), (untrained, 3.0)):
        steps = decoder(model, head, alpha=alpha).start(ids, 2)
        with torch.no_grad():
            found = steps(ids.repeat_interleave(2, 0), logits)
        assert torch.equal(found, Nucleus(top_p=0.9)(ids, logits))
        expected = sample_continuations(model, PROMPTS, decoder=Nucleus(top_p=0.9), **OPTIONS)
        written = sample_continuations(model, PROMPTS, decoder=decoder(model, head, alpha=alpha), **OPTIONS)
        assert (written == expected).all()
    steered = decoder(model, head_of(model), alpha=1.0)
    assert (sample_continuations(model, PROMPTS, decoder=steered, **OPTIONS) != expected).any()


@pytest.mark.parametrize("relative, width", [(False, 0), (True, 8)])
def test_a_new_head_knows_the_base_rate_and_comes_back_as_it_was_saved(tmp_path, relative, width):
    model = tiny_model(dtype=torch.float32)
    new = new_head(model, width=width, relative=relative, base_rate=0.8, seed=0)
    hidden = torch.randn(3, 16)
    assert torch.allclose(torch.sigmoid(new(hidden)), torch.tensor(0.8), atol=1e-6)
    never = new_head(model, width=width, relative=relative, base_rate=0.0, seed=0)
    assert torch.isfinite(never(hidden)).all()
    head = head_of(model, relative=relative, width=width)
    head.save(tmp_path)
    assert torch.equal(GuidanceHead.load(tmp_path)(hidden), head(hidden))
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}


def test_what_is_learned_keeps_texts_free_of_some_tokens(tmp_path):
    """R̂, trained on the model's samples, sees where they come, and guides around them."""
    model = tiny_model(dtype=torch.float32)
    prompts = [[0, one, other] for one in range(4, 12) for other in range(4, 12)]
    samples = samples_of(model, prompts)
    settings = training(consistency=0.0)  # a linear head on random weights remembers little: it cannot be consistent
    head = settings.new(model, samples)
    facts = settings.train(head, model, samples, TrainingContext(CPU, tmp_path))
    rate = samples.labels_PS.mean()
    counted = samples[np.arange(len(samples))]["counted"].float().mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)) * float(counted)
    assert facts["base_rate"] == pytest.approx(rate) and facts["samples"] == 61 * 40
    assert facts["validation/loss"] < 0.9 * entropy, "less than knowing the base rate alone"
    options = dict(samples=40, max_new_tokens=5, end_of_text=0, rows=1000, seed=2)

    def share(alpha):
        guided = decoder(model, head, alpha=alpha, top_p=1.0)
        return np.isin(sample_continuations(model, prompts, decoder=guided, **options), BAD).any(-1).mean()

    assert 0.3 < share(0.0) and share(1.0) < share(0.0) / 4


def test_labels_are_soft_or_hard():
    toxicity = np.array([[0.1, 0.5, 0.9]])
    assert training().labels(toxicity).tolist() == pytest.approx(np.array([[0.9, 0.5, 0.1]]))
    assert training(threshold=0.5).labels(toxicity).tolist() == [[1, 0, 0]]


def test_mistakes_are_named():
    for options in ({"consistency": -1.0}, {"width": -1}, {"threshold": 1.0}, {"validation": 1.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
            training(**options)
    with pytest.raises(ValueError, match=r"^optim\.epochs=0"):
        training(optim=Optimization(learning_rate=1e-3, batch_size=4, epochs=0))
    with pytest.raises(ValueError, match=r"^optim\.batch_size=64: .* samples are less"):
        training(sampling=Sampling(samples=2)).check(2)
    for options in ({"alpha": -1.0}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
            NADO(guidance=training(), **options)
