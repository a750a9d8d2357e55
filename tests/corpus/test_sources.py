import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet
import pytest

from ifguide.corpus.sources import LocalSource, merge_spans

RECORDS = [
    {"text": "one", "kind": 0, "inner": {"text": "deep one"}, "spans": [0, 1]},
    {"text": "two is", "kind": 1, "inner": {"text": "deep two"}, "spans": [[4, 99]]},
    {"text": "three", "kind": 2, "inner": {"text": "deep three"}, "spans": []},
]


@pytest.fixture(params=["jsonl", "jsonl.gz", "jsonl.xz", "parquet"])
def file(request, tmp_path):
    path = tmp_path / f"records.{request.param}"
    lines = "\n".join(map(json.dumps, RECORDS)).encode()
    if request.param == "parquet":
        simple = [{key: value for key, value in record.items() if key != "spans"} for record in RECORDS]
        pyarrow.parquet.write_table(pa.Table.from_pylist(simple), path)
    else:
        path.write_bytes({"gz": gzip.compress, "xz": lzma.compress}.get(request.param[-2:], bytes)(lines))
    return path


def test_every_format_gives_the_same_documents(file):
    documents = list(LocalSource(files=str(file), label="benign", name="mine"))
    assert [(d.text, d.record, d.source, d.label, d.spans) for d in documents] == [
        (record["text"], index, "mine", "benign", None) for index, record in enumerate(RECORDS)
    ]


def test_fields_may_be_nested_and_records_chosen(file):
    documents = list(LocalSource(files=[str(file)], field="inner.text", where={"kind": [0, 2]}, limit=1))
    assert [document.text for document in documents] == ["deep one"]


def test_spans_are_offsets_or_ranges(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)))
    assert [d.spans for d in LocalSource(files=str(path), spans="spans")] == [((0, 2),), ((4, 6),), ()]
    assert merge_spans([5, 3, 4, 9], 20) == ((3, 6), (9, 10))
    assert merge_spans([[0, 4], [2, 6], [8, 8]], 20) == ((0, 6),)


def test_text_files_are_documents_or_are_cut_at_a_separator(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    (tmp_path / "b.txt").write_text("three")
    assert [d.text for d in LocalSource(files=f"{tmp_path}/*.txt")] == ["one\n\ntwo", "three"]
    assert [d.text for d in LocalSource(files=f"{tmp_path}/*.txt", separator="\n\n")] == ["one", "two", "three"]


@pytest.mark.parametrize(
    "content, options, message",
    [
        (
            '{"text": "a"}\n{"text": " "}',
            {},
            "records.jsonl:2: `text` is empty; remove the record or set skip_empty=true",
        ),
        ('{"body": "a"}', {}, "no field `text`; the record has body"),
        ('{"text": "a"', {}, "records.jsonl:1: not JSON"),
        ("[1]", {}, "a JSON object is expected"),
        ('{"text": "a"}', {"label": "bad"}, "label='bad'"),
        ('{"text": "a"}', {"field": ""}, "field='': name"),
        ('{"text": "a", "k": 1}', {"where": {"k": [2]}}, "no document"),
    ],
)
def test_mistakes_are_named(tmp_path, content, options, message):
    (tmp_path / "records.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(LocalSource(files=f"{tmp_path}/records.jsonl", **options))


def test_missing_and_unknown_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no file matches"):
        LocalSource(files=f"{tmp_path}/nothing.jsonl")
    with pytest.raises(ValueError, match="IFGUIDE_DATASETS"):
        LocalSource(files="None/rtp.jsonl")
    (tmp_path / "table.csv").write_text("text\na")
    with pytest.raises(ValueError, match="unknown format"):
        list(LocalSource(files=f"{tmp_path}/table.csv"))


def test_empty_records_can_be_skipped(tmp_path):
    (tmp_path / "records.jsonl").write_text('{"text": "a"}\n{"text": ""}\n{"text": "b"}')
    source = LocalSource(files=f"{tmp_path}/records.jsonl", skip_empty=True)
    assert [(d.text, d.record) for d in source] == [("a", 0), ("b", 2)]


def test_rationales_mark_the_words_that_half_of_the_annotators_chose(tmp_path):
    from ifguide.corpus.rationales import RationaleSource

    def record(labels, rationales):
        return {"post_tokens": ["you", "bad", "cat"], "annotators": {"label": labels}, "rationales": rationales}

    records = [record([0, 2, 1], [[0, 1, 0], [0, 1, 1]]), record([1, 1, 0], []), record([2, 2, 2], [[1, 1, 0]])]
    path = tmp_path / "posts.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in records))
    hate, normal, offensive = RationaleSource(files=str(path))
    assert (hate.text, hate.label, hate.spans) == ("you bad cat", "toxic", ((4, 7), (8, 11)))
    assert (normal.label, normal.spans) == ("benign", None)
    assert offensive.spans == ((0, 3), (4, 7))
    path.write_text(json.dumps(record([0], [[1]])))
    with pytest.raises(ValueError, match="one number per word"):
        list(RationaleSource(files=str(path)))
