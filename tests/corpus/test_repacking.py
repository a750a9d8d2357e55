"""Documents taken out of a split, against slow references; chunks of one block show every border."""

import numpy as np
import pytest
from tiny import tiny_documents

from ifguide.corpus import repacking
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.repacking import (
    document_lengths,
    document_sums,
    document_texts,
    document_tokens,
    write_kept,
    write_kept_mask,
)


@pytest.fixture(params=[1, 40, 1 << 20], autouse=True)
def tokens_at_once(request, monkeypatch):
    monkeypatch.setattr(repacking, "TOKENS_AT_ONCE", request.param)


@pytest.fixture
def split(corpus):
    return corpus.split("train")


def flat_of(split):
    return split.tokens(slice(0, len(split))).reshape(-1)


def some(split, seed=0, share=0.4):
    return np.random.default_rng(seed).random(len(split.documents)) < share


def test_documents_come_out_as_they_went_in(corpus, split):
    flat = flat_of(split)
    for index, tokens in enumerate(document_tokens(split)):
        assert (tokens == flat[slice(*split.extent(index))]).all() and len(tokens) == document_lengths(split)[index]
    assert index == len(split.documents) - 1
    originals = {document.record: document.text for document in tiny_documents()}
    texts = list(document_texts(split, corpus.tokenizer))
    assert texts[:-1] == [originals[row["record"]] for row in split.documents[:-1]]
    assert originals[split.documents[-1]["record"]].startswith(texts[-1])


def test_sums_by_document(split):
    values = np.random.default_rng(0).standard_normal(split.shape).astype(np.float32)
    owner = split.documents_of(np.arange(values.size))
    expected = [values.reshape(-1)[owner == index].astype(float).sum() for index in range(len(split.documents))]
    assert np.allclose(document_sums(values, split), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept_keeps_its_order_labels_annotation_and_mask(corpus, split, tmp_path, seed):
    dropped, length = some(split, seed), split.block_length
    mask = TokenMask.pack(np.random.default_rng(seed).random(split.shape) < 0.3)
    facts = write_kept(tmp_path, corpus, dropped)
    marked = write_kept_mask(tmp_path / "mask.npy", mask, split, dropped)
    kept = Corpus(tmp_path).split("train")

    keep = ~dropped[split.documents_of(np.arange(flat_of(split).size))]
    total = keep.sum() // length * length
    assert facts == {"documents": len(kept.documents), "blocks": total // length, "tokens": total}
    assert (flat_of(kept) == flat_of(split)[keep][:total]).all() and kept.shape == (total // length, length)
    assert (kept.annotation[:].reshape(-1) == split.annotation[:].reshape(-1)[keep][:total]).all()
    rows = split.documents[~dropped][: len(kept.documents)]
    for name in ("source", "record", "label", "annotated"):
        assert (kept.documents[name] == rows[name]).all()
    whole = list(document_tokens(split))
    mine = [tokens for tokens, gone in zip(whole, dropped, strict=True) if not gone]
    for ours, theirs in zip(list(document_tokens(kept))[:-1], mine, strict=False):
        assert (ours == theirs).all()

    moved = TokenMask.open(tmp_path / "mask.npy", length)
    expected = mask[:].reshape(-1)[keep][:total].reshape(-1, length).copy()
    expected[:, 0] = False  # nothing predicts a block's first token
    assert (moved[:] == expected).all() and moved.shape == kept.shape and marked == expected.sum()


def test_dropping_nothing_changes_nothing(corpus, split, tmp_path):
    nothing = np.zeros(len(split.documents), bool)
    write_kept(tmp_path, corpus, nothing)
    kept = Corpus(tmp_path).split("train")
    assert (flat_of(kept) == flat_of(split)).all() and (kept.documents == split.documents).all()
    assert (kept.annotation[:] == split.annotation[:]).all()


def test_too_little_left_is_refused(corpus, split, tmp_path):
    with pytest.raises(ValueError, match="less than one block"):
        write_kept(tmp_path, corpus, np.ones(len(split.documents), bool))
