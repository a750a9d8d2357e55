import numpy as np
import pytest
from tiny import tiny_documents, tiny_tokenizer

from ifguide.corpus.blocks import LABELS, SPLITS, Corpus
from ifguide.corpus.build import CorpusSettings
from ifguide.corpus.documents import Document
from ifguide.corpus.tokenizers import check_same_tokenizer, make_tokenizer


def build(directory, documents, **options):
    options = dict(tokenizer=tiny_tokenizer, block_length=16, validation=0.1, test=0.1) | options
    CorpusSettings(sources={"tiny": documents}, **options).build(directory)
    return Corpus(directory)


def texts_of(corpus, name):
    split = corpus.split(name)
    flat = split.tokens(slice(0, len(split))).reshape(-1)
    return [corpus.tokenizer.decode(flat[a:b]) for a, b in map(split.extent, range(len(split.documents)))]


def test_the_stream_holds_each_document_once_and_splits_are_disjoint(corpus):
    end = corpus.tokenizer.eos_token
    originals = {document.text + end: document for document in tiny_documents()}
    seen = []
    for name in SPLITS:
        texts = texts_of(corpus, name)
        split = corpus.split(name)
        for text, row in zip(texts[:-1], split.documents[:-1], strict=True):  # the last one may be cut
            document = originals[text]
            assert (document.record, LABELS[document.label]) == (row["record"], row["label"])
        seen += texts[:-1]
    assert len(seen) == len(set(seen)) >= 50


def test_annotated_tokens_are_those_inside_the_spans(corpus):
    for name in SPLITS:
        split = corpus.split(name)
        tokens = split.tokens(slice(0, len(split)))
        marked = [corpus.tokenizer.decode([token]).strip() for token in tokens[split.annotation[:]]]
        assert set(marked) <= {"id", "i", "d", "io", "idi", "t", "ot", "diot", "idiot", "idio", "di"}
        text = corpus.tokenizer.decode(tokens.reshape(-1))
        assert "".join(marked).count("idiot") == pytest.approx(text.count("idiot"), abs=1)


def test_documents_of_positions_is_the_inverse_of_extent(corpus):
    split = corpus.split("train")
    owner = split.documents_of(np.arange(len(split) * split.block_length))
    for index in range(len(split.documents)):
        start, end = split.extent(index)
        assert (owner[start:end] == index).all() and (owner == index).sum() == end - start


def test_a_corpus_is_a_function_of_its_seed(tmp_path):
    first = build(tmp_path / "a", tiny_documents(), seed=0)
    again = build(tmp_path / "b", tiny_documents(), seed=0)
    other = build(tmp_path / "c", tiny_documents(), seed=1)
    blocks = [c.split("train").tokens(slice(0, 5)) for c in (first, again, other)]
    assert (blocks[0] == blocks[1]).all() and (blocks[0] != blocks[2]).any()


def test_equal_texts_fall_into_one_split(tmp_path):
    documents = [Document(d.text, "tiny", i, d.label) for i, d in enumerate([*tiny_documents(), *tiny_documents()])]
    corpus = build(tmp_path, documents)
    places = {}
    for name in SPLITS:
        for text in texts_of(corpus, name)[:-1]:
            places.setdefault(text, set()).add(name)
    assert all(len(names) == 1 for names in places.values())


def test_weights_repeat_and_thin_training_documents(tmp_path):
    half, twice = (
        build(tmp_path / str(w), tiny_documents(400), weights={"tiny": w}).split("train").documents["record"]
        for w in (0.5, 2)
    )
    assert 0.35 < len(half) / 320 < 0.65 and len(set(half)) == len(half)
    assert np.unique(twice, return_counts=True)[1].max() == 2 and len(twice) > 600


def test_special_tokens_in_the_text_are_text(tmp_path):
    end = "<|endoftext|>"
    documents = [Document(f"{d.text} {end} {d.text}", "tiny", d.record) for d in tiny_documents()]
    corpus = build(tmp_path, documents)
    tokens = corpus.split("train").tokens(slice(0, 1000))
    ends = (tokens == corpus.tokenizer.eos_token_id).sum()
    assert ends == pytest.approx(len(corpus.split("train").documents), abs=1)


def test_any_text_round_trips_through_the_trained_tokenizer():
    tokenizer = make_tokenizer(["plain text"], vocabulary=300)
    for text in ("naïve — ‘quoted’ 🤖\n\ttabs", "<script>&amp;\x00", "日本語"):
        assert tokenizer.decode(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids) == text


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(block_length=1), "block_length=1"),
        (dict(validation=0.6, test=0.5), "sum to less than 1"),
        (dict(weights={"other": 1.0}), "other"),
        (dict(weights={"tiny": -1.0}), "0 or more"),
        (dict(block_length=100_000), "less than one block"),
    ],
)
def test_mistakes_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, tiny_documents(), **options)


def test_tokenizer_mistakes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        make_tokenizer([], path=str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="at least 257"):
        make_tokenizer(["text"], vocabulary=100)
    with pytest.raises(ValueError, match="end_of_text=<eos>: the tokenizer has no such token"):
        make_tokenizer(["text"], vocabulary=300, end_of_text="<eos>")


def test_a_model_with_another_tokenizer_is_refused(tmp_path):
    ours, theirs = make_tokenizer(["one text"], vocabulary=260), make_tokenizer(["another corpus"], vocabulary=290)
    theirs.save_pretrained(tmp_path)
    check_same_tokenizer(str(tmp_path), theirs)
    with pytest.raises(ValueError, match="another tokenizer"):
        check_same_tokenizer(str(tmp_path), ours)


def test_a_local_tokenizer_file_is_loaded(datasets_folder):
    for name, size in (("gpt2", 50257), ("pythia_neox20b", 50277)):
        tokenizer = make_tokenizer([], path=str(datasets_folder / "tokenizers" / name / "tokenizer.json"))
        assert len(tokenizer) == size and tokenizer.eos_token == "<|endoftext|>"
