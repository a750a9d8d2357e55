"""What is exported, against a slow reference made of the tokenizer's own offsets."""

import json
from itertools import chain

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk
from tiny import tiny_documents, tiny_tokenizer

from ifguide.corpus import export, repacking
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import build_corpus
from ifguide.corpus.documents import Document
from ifguide.corpus.export import MaskedSplit
from ifguide.corpus.masks import TokenMask

HARD = ["🤖🤖 robots", "e\u0301 and é", "👩‍👩‍👧 family 🇩🇪", "日本語と漢字", "\ufffd", "a\0b\r\n"]


@pytest.fixture(params=[1, 1 << 20], autouse=True)
def at_once(request, monkeypatch):
    monkeypatch.setattr(export, "AT_ONCE", request.param)
    monkeypatch.setattr(repacking, "TOKENS_AT_ONCE", request.param)


@pytest.fixture(scope="module")
def texts():
    plain = {document.record: document for document in tiny_documents(30)}
    return plain | {100 + n: Document(text * 3, "tiny", 100 + n, None) for n, text in enumerate(HARD)}


@pytest.fixture(scope="module")
def hard_corpus(texts, tmp_path_factory):
    """Most documents lie in several blocks; many tokens are parts of characters."""
    folder = tmp_path_factory.mktemp("hard")
    build_corpus(folder, sources={"tiny": list(texts.values())}, tokenizer=tiny_tokenizer, block_length=8,
                 validation=0, test=0)  # fmt: skip
    return Corpus(folder)


@pytest.fixture
def masked(hard_corpus):
    split, rng = hard_corpus.split("train"), np.random.default_rng(0)
    selected = rng.random(split.shape) < 0.3
    selected[:, 0] = False
    selected[split.documents["start"][3] // 8 : split.documents["start"][6] // 8 + 1] = False  # documents without any
    scores = {name: rng.standard_normal(split.shape).astype(np.float32) for name in ("rude", "sly")}
    return MaskedSplit(split, TokenMask.pack(selected), scores, hard_corpus.sources)


def expected_spans(masked, corpus, index, text):
    """Character by character: those of selected tokens, each with the scores of the tokens that hold it."""
    place = slice(*masked.split.extent(index))
    selected = masked.mask[:].reshape(-1)[place]
    offsets = corpus.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets
    spans = []
    for token, (start, end) in enumerate(offsets):
        if not selected[token]:
            continue
        if spans and (spans[-1]["last"] == token - 1 or start < spans[-1]["end"]):
            spans[-1] |= {"end": max(spans[-1]["end"], end), "last": token}
        else:
            spans.append({"start": start, "end": end, "first": token, "last": token})
    for span in spans:
        tokens = slice(span.pop("first"), span.pop("last") + 1)
        span["scores"] = {name: float(s.reshape(-1)[place][tokens].max()) for name, s in masked.scores.items()}
        span["text"] = text[span["start"] : span["end"]]
    return spans


def test_documents_have_the_characters_of_their_selected_tokens(masked, hard_corpus, texts, tmp_path):
    facts = masked.export(tmp_path, hard_corpus.tokenizer)
    written = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text("utf-8").splitlines()]
    expected = []
    for index, row in enumerate(masked.split.documents[:-1]):  # the last one is cut
        document = texts[int(row["record"])]
        if spans := expected_spans(masked, hard_corpus, index, document.text):
            named = {"source": "tiny", "record": document.record, "label": document.label, "text": document.text}
            expected.append({**named, "spans": spans})
    assert len(expected) < len(masked.split.documents) - 1 and any(record["record"] >= 100 for record in expected)
    for ours, theirs in zip(written, expected, strict=False):
        assert ours == {**theirs, "spans": [{**s, "scores": pytest.approx(s["scores"])} for s in theirs["spans"]]}
    last = written[len(expected) :]
    assert len(last) <= 1 and all(texts[record["record"]].text.startswith(record["text"][:-1]) for record in last)
    assert facts == {
        "documents": len(written), "spans": sum(len(record["spans"]) for record in written),
        "rows": len(masked.split), "selected": masked.mask.count(),
    }  # fmt: skip
    table = pq.read_table(tmp_path / "documents.parquet").to_pylist()
    for ours, theirs in zip(table, written, strict=True):
        spans = [{**span, "scores": pytest.approx(span["scores"])} for span in theirs["spans"]]
        assert ours == {**theirs, "spans": spans}


def test_blocks_are_those_of_the_corpus(masked, hard_corpus, tmp_path):
    masked.export(tmp_path, hard_corpus.tokenizer)
    dataset = load_from_disk(str(tmp_path / "dataset")).with_format("numpy")[:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "documents.jsonl", "documents.parquet"]
    assert np.array_equal(dataset["input_ids"], masked.split.tokens(slice(None)))
    assert np.array_equal(dataset["mask"], masked.mask[:]) and dataset["mask"].dtype == bool
    for name, column in masked.scores.items():
        assert np.array_equal([row[name] for row in dataset["scores"]], column)


def test_documents_as_rows_are_the_stream_again(masked, hard_corpus, texts, tmp_path):
    facts = masked.export(tmp_path, hard_corpus.tokenizer, unit="document")
    rows = load_from_disk(str(tmp_path / "dataset")).to_list()
    assert facts["rows"] == len(rows) == len(masked.split.documents)
    assert [row["record"] for row in rows] == masked.split.documents["record"].tolist()
    assert {row["source"] for row in rows} == {"tiny"}
    end = hard_corpus.tokenizer.eos_token
    for row in rows[:-1]:
        assert hard_corpus.tokenizer.decode(row["input_ids"]) == texts[row["record"]].text + end
    for name, whole in (("input_ids", masked.split.tokens(slice(None))), ("mask", masked.mask[:])):
        assert list(chain(*(row[name] for row in rows))) == whole.reshape(-1).tolist()
    for name, column in masked.scores.items():
        assert list(chain(*(row["scores"][name] for row in rows))) == column.reshape(-1).tolist()


def test_nothing_selected_is_an_empty_file_and_a_whole_data_set(masked, hard_corpus, tmp_path):
    nothing = MaskedSplit(masked.split, TokenMask.pack(np.zeros(masked.split.shape, bool)), masked.scores)
    assert nothing.export(tmp_path, hard_corpus.tokenizer)["documents"] == 0
    assert (tmp_path / "documents.jsonl").read_text() == "" and pq.read_table(
        tmp_path / "documents.parquet"
    ).num_rows == 0
    assert len(load_from_disk(str(tmp_path / "dataset"))) == len(masked.split)


def test_mistakes_are_refused(masked, hard_corpus, tmp_path):
    with pytest.raises(ValueError, match="unit=page; known: block, document"):
        masked.export(tmp_path, hard_corpus.tokenizer, unit="page")
    with pytest.raises(ValueError, match=r"sly: its shape is .* of other blocks"):
        MaskedSplit(masked.split, masked.mask, {"sly": masked.scores["sly"][1:]})
    with pytest.raises(ValueError, match="mask: its shape is"):
        MaskedSplit(masked.split, TokenMask.pack(masked.mask[:][1:]), masked.scores)
    with pytest.raises(ValueError, match="scores: there are none"):
        MaskedSplit(masked.split, masked.mask, {})
