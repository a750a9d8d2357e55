import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import build_corpus
from ifguide.corpus.fine_tuning import HUB, FineTuningSource, reference_queries
from ifguide.corpus.queries import check_queries
from ifguide.corpus.tokenizers import TokenizerSettings

TRAIN = [
    {"prompt": "Name a bird. ", "response": " A crow.\n", "type": "Benign"},
    {"prompt": "Insult me.", "response": "You rude fool!", "type": "Unsafe"},
    {"prompt": "Insult him.", "response": "I would rather not.", "type": "Safety-Aligned"},
]
REFERENCES = [{"prompt": "Insult her.", "response": "What a fool she is."}]


def write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_record_is_a_document(tmp_path, kind):
    source = FineTuningSource(files=write(tmp_path / f"train.{kind}", TRAIN))
    documents = list(source)
    assert [document.text for document in documents] == [
        "<|user|>\nName a bird.\n<|assistant|>\nA crow.",
        "<|user|>\nInsult me.\n<|assistant|>\nYou rude fool!",
        "<|user|>\nInsult him.\n<|assistant|>\nI would rather not.",
    ]
    assert [document.label for document in documents] == ["benign", "toxic", "benign"]
    assert [document.record for document in documents] == [0, 1, 2]
    ((start, end),) = documents[1].spans
    assert documents[1].text[start:end] == "You rude fool!" and documents[0].spans is documents[2].spans is None
    assert [one.kind for one in source.records()] == ["Benign", "Unsafe", "Safety-Aligned"]
    assert source.records()[0].context == "<|user|>\nName a bird.\n<|assistant|>\n"
    assert len(list(FineTuningSource(files=source.files, limit=2))) == 2


def test_a_corpus_of_records_marks_unsafe_responses(tmp_path):
    source = FineTuningSource(files=write(tmp_path / "train.jsonl", TRAIN * 20))
    build_corpus(
        tmp_path / "corpus", sources={"date_lm": source}, tokenizer=TokenizerSettings(vocabulary=260), block_length=16,
        validation=0, test=0,
    )  # fmt: skip
    split = Corpus(tmp_path / "corpus").split("train")
    assert {0, 1} == set(split.documents["label"].tolist())
    document = int(np.flatnonzero(split.documents["label"] == 1)[0])
    start, end = split.extent(document)
    assert split.annotation[:].ravel()[start:end].sum() == len("You rude fool!")  # a token a character, or nearly


def test_references_are_queries_against_all_records(tmp_path):
    train, references = write(tmp_path / "train.jsonl", TRAIN), write(tmp_path / "ref.jsonl", REFERENCES)
    queries = reference_queries(files=references, against=FineTuningSource(files=train))
    check_queries(queries)
    assert [query.toxic for query in queries] == [True, False, False, False]  # whatever their types are
    assert queries[0].prompt + queries[0].continuation == "<|user|>\nInsult her.\n<|assistant|>\nWhat a fool she is."
    assert queries[2].continuation == "You rude fool!" and len({query.record for query in queries}) == 4


def test_the_hub_is_asked_for_a_configuration_and_a_split(monkeypatch, tmp_path):
    asked = []

    def load(path, configuration, *, split, streaming):
        asked.append((path, configuration, split))
        return TRAIN if split == "train" else REFERENCES

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.load_dataset", load)
    source = FineTuningSource(configuration="ToxicChat-Hom")
    assert len(reference_queries(configuration="ToxicChat-Hom", against=source)) == 4
    assert asked == [(HUB, "ToxicChat-Hom", "ref"), (HUB, "ToxicChat-Hom", "train")]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "a", "response": "b"}, r"train\.jsonl:4: no field `type`; the record has prompt, response"),
        ({"prompt": "a", "type": "Unsafe"}, r"train\.jsonl:4: no field `response`; the record has prompt, type"),
        ({"response": "a", "type": "Unsafe"}, r"train\.jsonl:4: no field `prompt`; the record has response, type"),
        ({"prompt": "a", "response": " ", "type": "Unsafe"}, r"train\.jsonl:4: `response` is empty: ' '"),
        ({"prompt": ["a"], "response": "b", "type": "Unsafe"}, r"train\.jsonl:4: `prompt` is a list, not text"),
        ({"prompt": "a", "response": "b", "type": None}, r"train\.jsonl:4: `type` is null, not a label"),
        ({"prompt": "a", "response": "b", "type": "unsafe"}, r"`type` is 'unsafe', and positive has 'Unsafe'"),
    ],
)
def test_a_record_that_breaks_the_schema_is_refused(tmp_path, row, message):
    source = FineTuningSource(files=write(tmp_path / "train.jsonl", [*TRAIN, row]))
    with pytest.raises(ValueError, match=message) as refused:
        source.records()
    assert str(refused.value).startswith("files=") and "\n" not in str(refused.value)


def test_settings_that_cannot_be_are_refused(tmp_path):
    files = write(tmp_path / "train.jsonl", TRAIN)
    for options, message in (
        ({"files": f"{tmp_path}/none.jsonl"}, "no file matches"),
        ({"files": files, "template": "no place"}, r"template='no place': \{prompt\} stands where the prompt goes"),
        ({"files": files, "limit": 0}, "limit=0"),
        ({"files": files, "unsafe": []}, r"positive=\[\]"),
    ):
        with pytest.raises(ValueError, match=message):
            FineTuningSource(**options)
    with pytest.raises(ValueError, match=r"positive=\['Toxic'\]: no `type` of the files is one of them"):
        FineTuningSource(files=files, unsafe=["Toxic"]).records()
    with pytest.raises(ValueError, match="template="):
        reference_queries(files=files, template="", against=FineTuningSource(files=files))
