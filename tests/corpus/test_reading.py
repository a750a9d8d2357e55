"""What a file's reader takes in: limits, long text files, and what is there twice."""

import gzip
import json
import re
from functools import partial

import pyarrow as pa
import pyarrow.parquet
import pytest

from ifguide.corpus import records
from ifguide.corpus.labelled import LabelledSource
from ifguide.corpus.pairs import local_pairs
from ifguide.corpus.prompts import bold_prompts, local_prompts, toxigen_prompts
from ifguide.corpus.real_toxicity_prompts import real_toxicity_prompts, real_toxicity_queries
from ifguide.corpus.records import read_records, read_texts
from ifguide.corpus.sources import HubSource, LocalSource
from ifguide.corpus.words import read_words
from ifguide.evaluation.harness import HarnessTasks
from ifguide.evaluation.lambada import Lambada


@pytest.fixture
def files(tmp_path):
    (tmp_path / "records.jsonl").write_text('{"text": "a kite flies", "prompt": "a", "chosen": "b", "rejected": "c"}')
    return str(tmp_path / "records.jsonl")


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2"])
@pytest.mark.parametrize(
    "reader",
    [LocalSource, LabelledSource, local_prompts, bold_prompts, toxigen_prompts, real_toxicity_prompts,
     real_toxicity_queries, local_pairs, Lambada, partial(HubSource, path="x/y")],
)  # fmt: skip
def test_a_limit_is_a_whole_number_from_1_up(files, reader, limit):
    given = {} if isinstance(reader, partial) else {"files": files}
    with pytest.raises(ValueError, match=f"^limit={limit}: it is a whole number, 1 or more"):
        reader(**given, limit=limit)
    if reader is bold_prompts:
        with pytest.raises(ValueError, match=f"^per_entity={limit}"):
            reader(**given, per_entity=limit)


def test_the_harness_takes_no_limit_of_0_either():
    pytest.importorskip("lm_eval")
    with pytest.raises(ValueError, match=r"^limit=0: it is a whole number"):
        HarnessTasks(tasks=["piqa"], limit=0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("separator", ["\n", "\n\n", "---", "aa"])
def test_a_text_file_is_cut_as_if_it_were_read_whole(tmp_path, monkeypatch, size, separator):
    text = "aaa\n\n\nb---c----\n--a-a\n\naaaa"
    for name, content in (("a.txt", text.encode()), ("a.txt.gz", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(content)
        monkeypatch.setattr(records, "READ_AT_ONCE", size)
        assert list(read_texts(tmp_path / name, separator)) == text.split(separator)
        assert list(read_texts(tmp_path / name)) == [text]
    (tmp_path / "empty.txt").touch()
    assert list(read_texts(tmp_path / "empty.txt", separator)) == [""]


def test_a_long_text_file_is_read_document_by_document(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "READ_AT_ONCE", 64)
    monkeypatch.setattr(records, "LONGEST_TEXT", 200)
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(f"document {n}" for n in range(500)))
    source = LocalSource(files=str(path), separator=r"\n\n")
    assert [d.text for d in source] == [f"document {n}" for n in range(500)]
    assert [d.record for d in LocalSource(files=str(path), separator=r"\n\n", limit=2)] == [0, 1]
    with pytest.raises(ValueError, match=r"^files=.*long\.txt: a text of more than .*; give the separator"):
        list(LocalSource(files=str(path)))
    with pytest.raises(ValueError, match=r"^files=.*long\.txt: a text of more than"):
        list(LocalSource(files=str(path), separator="---"))


def test_records_without_a_score_are_counted(tmp_path, caplog):
    def row(n, toxicity):
        scored = {"text": f"text {n}", "toxicity": toxicity}
        return {"filename": f"file {n}", "begin": 0, "end": 9, "prompt": scored, "continuation": scored}

    path = tmp_path / "rtp.jsonl"
    path.write_text("\n".join(json.dumps(row(n, None if n % 4 else 0.9)) for n in range(40)))
    kept = len(real_toxicity_queries(files=str(path))) + len(real_toxicity_prompts(files=str(path)))
    counts = [int(re.search(r": (\d+) records whose `\w+\.toxicity` is null", one)[1]) for one in caplog.messages]
    assert kept == 10 and sum(counts) == 30 and len(counts) == 2


def test_two_fields_of_one_name_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b", "prompt": {"text": "c", "text": "d"}}')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: not JSON \(two fields are called text\)"):
        list(read_records(str(path)))
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"^files=.*a\.parquet: two columns are called text"):
        list(read_records(f"{tmp_path}/a.parquet"))


def test_a_file_is_named_once(files, tmp_path):
    with pytest.raises(ValueError, match=r"records\.jsonl is named, or matched, 2 times"):
        LocalSource(files=[files, f"{tmp_path}/*.jsonl"])
    with pytest.raises(ValueError, match=r"is a folder; name its files, as in"):
        LocalSource(files=str(tmp_path))


def test_a_quote_without_its_end_takes_in_no_further_words(tmp_path):
    (tmp_path / "a.csv").write_text('word,weight\n"fool,1\ngoose,2\nidiot,3\n')
    with pytest.raises(ValueError, match=r"^files=.*a\.csv: it is no \.csv file \(unexpected end of data"):
        read_words(f"{tmp_path}/a.csv", "word")
    (tmp_path / "b.csv").write_text('word,weight\n"fool, really",1\n"a ""goose""",2\n')
    assert read_words(f"{tmp_path}/b.csv", "word") == ["fool, really", 'a "goose"']
