"""Rounds of attribute-controlled fine-tuning on a tiny corpus."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from tiny import tiny_documents, tiny_tokenizer

from ifguide.classifiers.ngrams import NgramClassifier
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import build_corpus
from ifguide.corpus.documents import Document
from ifguide.methods.attribute_control import AttributeControl
from ifguide.methods.attribute_control.examples import DocumentMask
from ifguide.methods.attribute_control.module import ControlledModule
from ifguide.methods.nado import GuidanceTraining
from ifguide.methods.nado.model import new_head, read
from ifguide.methods.samples import Sampling
from ifguide.models import ModelSettings
from ifguide.objectives import LanguageModeling
from ifguide.objectives.language_modeling import cross_entropy
from ifguide.training.context import TrainingContext
from ifguide.training.fit import train
from ifguide.training.optimization import Optimization
from ifguide.training.trainer import TrainerSettings

CPU = TrainerSettings(micro_batch_size=2, checkpoint_every=3, progress=False)
OPTIM = Optimization(learning_rate=1e-2, batch_size=4, epochs=0.5)


def guidance_training(**options):
    optim = Optimization(learning_rate=3e-3, batch_size=8, epochs=1)
    classifier = NgramClassifier(None, name="never asked")
    return GuidanceTraining(**(dict(optim=optim, sampling=Sampling(samples=4), classifier=classifier) | options))


def settings(**options):
    return AttributeControl(**(dict(optim=OPTIM, guidance=guidance_training()) | options))


def model_for(corpus):
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, hidden_dropout=0.1)
    return ModelSettings(architecture="gpt_neox", settings=shape).build(corpus.vocabulary, None)


def head_for(model, noise=1.0):
    """At noise 0 it says the same of every token."""
    head = new_head(model, width=0, relative=False, base_rate=0.8, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        head.tokens.weight.add_(noise * torch.randn(head.tokens.weight.shape, generator=generator))
    return head


def run(corpus, directory, *, model=None, head=None, round_=1, **options):
    model = model or model_for(corpus)
    context = TrainingContext(CPU, directory)
    facts = settings(**options).train(model, head or head_for(model), corpus=corpus, round_=round_, context=context)
    return model, facts


def module_for(model, head, *, weight=1.0, previous=None):
    return ControlledModule(model, head, previous, OPTIM, steps=2, seed=0, weight=weight)


def same(a, b, **tolerance):
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.allclose(x, y, **tolerance) if tolerance else torch.equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory):
    """A corpus of two sources, and documents with and without a label."""
    folder = tmp_path_factory.mktemp("two")
    plain = [Document(one.text + " plain", "plain", one.record) for one in tiny_documents(30, seed=1)]
    build_corpus(
        folder, sources={"tiny": tiny_documents(30), "plain": plain}, tokenizer=tiny_tokenizer, block_length=16,
        validation=0.1, test=0.1,
    )  # fmt: skip
    return Corpus(folder)


def test_without_weight_it_is_fine_tuning_bit_for_bit(corpus, tmp_path):
    expected = model_for(corpus)
    facts = train(
        expected, LanguageModeling(), OPTIM, TrainingContext(CPU, tmp_path / "a"), blocks=corpus.split("train"),
        mask=None, validation=corpus.split("validation"), seed=0,
    )  # fmt: skip
    model, found = run(corpus, tmp_path / "b", weight=0)
    assert same(model, expected) and found["steps"] == facts["steps"] > 1
    assert found["validation/loss"] == facts["validation/loss"]
    assert found["seconds_per_step"] > 0 < found["seconds_per_ordinary_step"]


def test_with_constant_guidance_it_is_fine_tuning(corpus):
    model = model_for(corpus).double().eval()
    ids = torch.from_numpy(corpus.split("train").tokens(slice(0, 3)))
    for noise, tolerance in ((0.0, 1e-12), (1.0, None)):
        gradients = []
        for loss in (
            module_for(model, head_for(model, noise).double(), weight=3.0).loss({"input_ids": ids}),
            cross_entropy(model(ids).logits, ids),
        ):
            model.zero_grad()
            loss.backward()
            gradients.append((loss.detach(), torch.cat([one.grad.flatten() for one in model.parameters()])))
        (ours, gradient), (theirs, expected) = gradients
        is_same = torch.allclose(gradient, expected, atol=tolerance or 1e-12)
        assert is_same == (noise == 0) and torch.allclose(ours, theirs, atol=1e-12) == (noise == 0)


def test_the_loss_is_that_of_a_loop(corpus):
    model = model_for(corpus).double().eval()
    head, previous = head_for(model).double(), model_for(corpus).double().eval()
    with torch.no_grad():
        for parameter in previous.parameters():
            parameter.add_(0.05)
    ids = torch.from_numpy(corpus.split("train").tokens(slice(0, 3)))
    wanted = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    for teacher in (None, previous):
        batch = {"input_ids": ids, "regularised": wanted}
        found = module_for(model, head, weight=0.7, previous=teacher).loss(batch)
        with torch.no_grad():
            log_p = model(ids).logits.log_softmax(-1)
            logits, hidden = read(teacher or model, ids)
            q = (logits.log_softmax(-1) + torch.sigmoid(head(hidden)).log()).softmax(-1)
            total = 0.0
            for n in range(3):
                for t in range(1, ids.shape[1]):
                    total -= float(log_p[n, t - 1, ids[n, t]])
                    if wanted[n, t]:
                        total += 0.7 * float((q[n, t - 1] * (q[n, t - 1].log() - log_p[n, t - 1])).sum())
        assert float(found) == pytest.approx(total / (3 * (ids.shape[1] - 1)), rel=1e-10)


def test_regularised_tokens_are_those_of_the_documents_named(two_sources):
    split = two_sources.split("train")
    rows = np.arange(len(split))
    for sources, labels in ((["plain"], []), ([], ["toxic"]), (["plain"], ["toxic"])):
        found = DocumentMask(split, two_sources.sources, sources, labels)[rows]
        expected = np.zeros(split.shape[0] * split.shape[1], bool)
        for number, document in enumerate(split.documents):
            first, last = split.extent(number)
            text = two_sources.tokenizer.decode(split.tokens(rows).ravel()[first:last])
            is_plain, is_toxic = "plain" in text, document["label"] == 1
            expected[first:last] = ("plain" in sources and is_plain) or ("toxic" in labels and is_toxic)
        assert (found.ravel() == expected).mean() > 0.99, "a last document may be cut before its last word"
        assert 0 < found.mean() < 1
        assert (DocumentMask(split, two_sources.sources, sources, labels)[rows[[4, 1]]] == found[[4, 1]]).all()
    for sources, labels, message in (
        (["tony"], [], r"^sources=\['tony'\]: there is no tony; known: tiny, plain"),
        ([], ["rude"], r"^labels=\['rude'\]: there is no rude; known: benign, toxic"),
    ):
        with pytest.raises(ValueError, match=message):
            DocumentMask(split, two_sources.sources, sources, labels)


def test_a_killed_round_goes_on_exactly(corpus, tmp_path, monkeypatch):
    options = dict(frozen_teacher=True)
    model, facts = run(corpus, tmp_path / "whole", **options)
    losses, calls = ControlledModule.loss, []

    def killed(self, batch):
        calls.append(1)
        if len(calls) == 4 + facts["steps"] + 2:  # steps that are timed, then two micro-batches a step
            raise RuntimeError("killed")
        return losses(self, batch)

    monkeypatch.setattr(ControlledModule, "loss", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(corpus, tmp_path / "broken", **options)
    assert list((tmp_path / "broken" / "checkpoints").iterdir())
    count = len(calls)
    resumed, _ = run(corpus, tmp_path / "broken", **options)
    assert len(calls) - count < 4 + 2 * facts["steps"], "it began anew"
    assert same(resumed, model)


def test_rounds_have_orders_of_their_own_and_start_where_they_are_told(corpus, tmp_path):
    first, other = (run(corpus, tmp_path / str(n), round_=n)[0] for n in (1, 2))
    assert not same(first, other)
    start = model_for(corpus)
    head = head_for(start)
    before = deepcopy(head)
    run(corpus, tmp_path / "both", model=start, head=head)
    assert same(head, before), "R̂ does not learn"


def test_mistakes_are_named(corpus):
    for options in ({"weight": -1.0}, {"rounds": 0}, {"seed": -1}, {"labels": []}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
            settings(**options)
    with pytest.raises(ValueError, match=r"^optim\.epochs=0"):
        settings(optim=Optimization(learning_rate=1e-3, batch_size=4, epochs=0))
    with pytest.raises(ValueError, match=r"^optim\.batch_size=999"):
        settings(optim=Optimization(learning_rate=1e-3, batch_size=999, epochs=1)).check(corpus)
    with pytest.raises(ValueError, match=r"^sources=\['nowhere'\]"):
        settings(sources=["nowhere"]).check(corpus)
