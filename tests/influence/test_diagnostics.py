"""What is measured of a proxy, a direction and a mask, against plain definitions."""

import numpy as np
import pytest
import torch
from tiny import tiny_model

from ifguide.corpus.documents import Query
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.queries import halves
from ifguide.corpus.tokenizers import token_texts
from ifguide.influence.diagnostics import (
    mask_shape,
    mean_loss,
    on_both_sides,
    score_changes,
    split_half_correlation,
    unigram_loss,
)
from ifguide.influence.scorers import JVP
from ifguide.models import tracked_parameters


def query(text, toxic):
    return Query("p", text, toxic, "r")


def test_halves_share_no_continuation_and_have_both_classes():
    queries = [query(f"{i // 2} {toxic}", toxic) for i in range(12) for toxic in (True, False)]
    one, other = halves(queries)
    assert len(one) + len(other) == len(queries) and len(one) == len(other)
    assert not {q.continuation for q in one} & {q.continuation for q in other}
    assert all(sum(q.toxic for q in part) == len(part) / 2 for part in (one, other))


def test_continuations_on_both_sides_are_counted():
    assert on_both_sides([query(" A b", True), query("a  B", False), query("c", True), query("d", False)]) == 1


def test_losses_of_counts_and_models(corpus, model):
    train, held_out = corpus.split("train"), corpus.split("validation")
    counts = np.bincount(train.tokens(slice(0, None)).ravel(), minlength=corpus.vocabulary) + 1.0
    expected = [-np.log(counts[token] / counts.sum()) for row in held_out.tokens(slice(0, None)) for token in row[1:]]
    assert unigram_loss(train, held_out, corpus.vocabulary) == pytest.approx(np.mean(expected))
    blocks = np.random.default_rng(0).integers(60, size=(5, 9))
    ids = torch.from_numpy(blocks)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].double().log_softmax(-1)
    plain = -logits.gather(-1, ids[:, 1:, None]).mean()
    assert mean_loss(model, blocks, batch_size=2) == pytest.approx(float(plain), rel=1e-6)


def directions_of(model, count):
    generator = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in tracked_parameters(model).items()}
    return [
        {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def test_changes_are_proportional_to_scores_and_leave_the_model_as_it_was(model, blocks):
    (direction,) = directions_of(model, 1)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    changes = score_changes(model, direction, blocks.numpy(), batch_size=2)
    assert all(torch.allclose(before[name], value, atol=1e-12) for name, value in model.named_parameters())
    exact = JVP().prepare(model, [direction], blocks)(blocks)[0][:, 1:].flatten()
    assert np.corrcoef(changes, exact.numpy())[0, 1] > 0.9999


def test_halves_that_agree_correlate_and_halves_of_noise_do_not():
    model = tiny_model()
    one, other = directions_of(model, 2)
    ids = torch.randint(60, (40, 9), generator=torch.Generator().manual_seed(3)).numpy()
    near = {name: value + 0.1 * other[name] for name, value in one.items()}
    assert split_half_correlation(model, [one, near], ids, batch_size=8) > 0.95
    assert abs(split_half_correlation(model, [one, other], ids, batch_size=8)) < 0.5
    still = {name: torch.zeros_like(value) for name, value in one.items()}
    assert split_half_correlation(model, [one, still], ids, batch_size=8) == 0


def test_the_shape_of_a_mask_is_that_of_its_tokens_one_by_one(corpus):
    split, texts = corpus.split("train"), token_texts(corpus.tokenizer)
    chosen = np.random.default_rng(0).random(split.shape) < 0.2
    chosen[:, 0] = False
    ids, length = split.tokens(slice(0, None)), split.block_length
    document = split.documents_of(np.arange(ids.size)).reshape(ids.shape)
    fragments = 0
    for row, (tokens, marks) in enumerate(zip(ids, chosen, strict=True)):
        words: list[list[int]] = []
        for place in range(length):
            joins = place and texts[tokens[place]][:1].isalpha() and texts[tokens[place - 1]][-1:].isalpha()
            (words[-1] if joins else words.append([place]) or words[-1]).extend([place] if joins else [])
        fragments += sum(int(marks[w].sum()) for w in map(np.array, words) if not marks[w].all())
        assert row < len(split)
    shape = mask_shape(TokenMask.pack(chosen), split, texts)
    per_document = np.bincount(document[chosen])
    assert shape["documents"] == (per_document > 0).sum()
    assert shape["largest_document"] == pytest.approx(per_document.max() / chosen.sum())
    assert shape["fragments"] == pytest.approx(fragments / chosen.sum()) and 0 < shape["fragments"] < 1
