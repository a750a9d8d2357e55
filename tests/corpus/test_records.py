"""Files that are not what they should be: one line each, with file, line, field, value and rule."""

import gzip
import json
import lzma
import re
from datetime import date
from functools import partial

import pyarrow as pa
import pyarrow.parquet
import pytest

from ifguide import hub
from ifguide.corpus import records
from ifguide.corpus.build import CorpusSettings
from ifguide.corpus.labelled import LabelledSource, TextScores
from ifguide.corpus.pairs import local_pairs
from ifguide.corpus.prompts import bold_prompts, local_prompts, toxigen_prompts
from ifguide.corpus.queries import local_queries
from ifguide.corpus.rationales import RationaleSource
from ifguide.corpus.real_toxicity_prompts import real_toxicity_prompts, real_toxicity_queries
from ifguide.corpus.records import read_records
from ifguide.corpus.schema import spans
from ifguide.corpus.sources import HubSource, LocalSource
from ifguide.corpus.words import read_words
from ifguide.evaluation.lambada import Lambada
from ifguide.workspace import describe

BOM = "\N{BYTE ORDER MARK}".encode()
HALF = "\\ud83d"  # half of a smiley, as scraped JSON has it


def documents(files, **options):
    return list(LocalSource(files=files, **options))


def labelled(files, **options):
    return list(LabelledSource(files=files, **options))


def scores(files):
    return TextScores(files=files, categories={"toxicity": "score"}).read()


def rationales(files):
    return list(RationaleSource(files=files))


def lambada(files):
    return Lambada(files=files).passages


def write(folder, *rows, name="records.jsonl"):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return str(folder / name)


RTP = {"filename": "f", "begin": 0, "end": 9, "prompt": {"text": "a", "toxicity": 0.1},
       "continuation": {"text": "b", "toxicity": 0.1}}  # fmt: skip
POST = {"post_tokens": ["a", "b"], "annotators": {"label": [1]}, "rationales": [[0, 1]]}
BOLD = {"domain": "d", "category": "c", "name": "n", "text": "a"}
READERS = {  # reader, a record that is right, and its fields that hold text
    "documents": (documents, {"text": "a kite"}, ["text"]),
    "queries": (local_queries, {"prompt": "a", "continuation": " b", "label": "toxic"}, ["prompt", "continuation"]),
    "prompts": (local_prompts, {"prompt": "a"}, ["prompt"]),
    "bold": (bold_prompts, BOLD, ["text"]),
    "toxigen": (toxigen_prompts, {"prompt": "a", "group": "g", "prompt_label": "hate"}, ["prompt"]),
    "pairs": (local_pairs, {"prompt": "a", "chosen": "b", "rejected": "c"}, ["prompt", "chosen", "rejected"]),
    "labelled": (partial(labelled, positive=["toxic"]), {"text": "a", "label": "toxic"}, ["text"]),
    "scores": (scores, {"text": "a", "score": 0.5}, ["text"]),
    "rationales": (rationales, POST, []),
    "rtp queries": (real_toxicity_queries, RTP, ["prompt.text", "continuation.text"]),
    "rtp prompts": (real_toxicity_prompts, RTP, ["prompt.text"]),
    "passages": (lambada, {"text": "a kite flies"}, ["text"]),
}
CASES = [
    (kind, field, value)
    for kind, (_, _, fields) in READERS.items()
    for field in fields
    for value in (2026, [1], {"a": 1}, True, HALF)
]


def changed(row, field, value):
    first, _, rest = field.partition(".")
    return {**row, first: changed(row[first], rest, value) if rest else value}


def read(kind, files):
    reader = READERS[kind][0]
    return reader(files=files)


@pytest.mark.parametrize("kind", READERS)
def test_every_reader_takes_its_own_records(tmp_path, kind):
    row = READERS[kind][1]
    assert len(read(kind, write(tmp_path, row))) >= (0 if kind.startswith("rtp") else 1)


@pytest.mark.parametrize("kind, field, value", CASES)
def test_what_is_no_text_is_not_taken_for_one(tmp_path, kind, field, value):
    row = READERS[kind][1]
    bad = json.dumps(changed(row, field, value)).replace(json.dumps(HALF), f'"a {HALF}"')
    files = write(tmp_path, row, "", bad)
    wrong = {int: "a number, not text", list: "a list, not text", dict: "an object, not text",
             bool: "true or false, not text", str: "half a character at 2"}[type(value)]  # fmt: skip
    place = rf"^files=.*records\.jsonl:3: `{re.escape(field)}` (is|has) {wrong}"
    with pytest.raises(ValueError, match=place) as caught:
        read(kind, files)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind, field",
    [("queries", "prompt"), ("queries", "continuation"), ("prompts", "prompt"), ("pairs", "chosen"), ("scores", "text"),
     ("documents", "text"), ("passages", "text"), ("bold", "text"), ("toxigen", "prompt")],
)  # fmt: skip
def test_null_is_no_text(tmp_path, kind, field):
    row = READERS[kind][1]
    with pytest.raises(ValueError, match=rf"records\.jsonl:2: `{field}` is null"):
        read(kind, write(tmp_path, row, changed(row, field, None)))


def test_text_may_be_missing_where_the_documentation_says_so(tmp_path):
    nothing = write(tmp_path, {"text": None}, {"text": "a"}, {"text": " "})
    assert [d.record for d in LocalSource(files=nothing, skip_empty=True)] == [1]
    with pytest.raises(ValueError, match=r"jsonl:1: `text` is a number"):
        documents(write(tmp_path, {"text": 3}), skip_empty=True)
    assert local_pairs(files=write(tmp_path, {"prompt": None, "chosen": "a", "rejected": "b"}))[0].prompt == ""


@pytest.mark.parametrize(
    "value, wrong",
    [
        ("[0, 1]", "is text; spans are a list"),
        (3, "is a number; spans are a list"),
        ([{"start": 0, "end": 1}], r"item 0 is \{'end': 1, 'start': 0\}; spans are \[start, end\] pairs"),
        ([0, 1.5], "item 1 is 1.5"),
        ([[0, 1, 2]], "item 0 is"),
        ([[2, 1]], r"item 0 is \[2, 1\].*none ends before it begins"),
        ([-1], "item 0 is -1"),
        ([True], "item 0 is True"),
        (["1"], "item 0 is '1'"),
    ],
)
def test_spans_are_pairs_or_offsets(tmp_path, value, wrong):
    files = write(tmp_path, {"text": "abc", "spans": []}, {"text": "abc", "spans": value})
    with pytest.raises(ValueError, match=rf"records\.jsonl:2: `spans` .*{wrong}"):
        documents(files, spans="spans")
    assert spans([[0, 2], 3]) == [[0, 2], 3] and spans(None) == []


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity", "1e400", '"nan"', "[1]", '"much"'])
def test_labels_and_scores_are_finite_numbers(tmp_path, name):
    files = write(
        tmp_path, '{"text": "a", "label": 1, "score": 1}', f'{{"text": "b", "label": {name}, "score": {name}}}'
    )
    place = r"records\.jsonl:2: `label` is (not finite|a list, not a|text, not a number)"
    for options in ({}, {"at_least": 0.5}):
        with pytest.raises(ValueError, match=place):
            labelled(files, **options)
    with pytest.raises(ValueError, match=r"records\.jsonl:2: `score` is (not finite|a list|text), ?|not finite"):
        scores(files)
    if name[0] != '"':
        with pytest.raises(ValueError, match=place):
            labelled(files, positive=[1])
    with pytest.raises(ValueError, match=r"jsonl:1: `score` is not in \[0, 1\]: 1.5"):
        scores(write(tmp_path, {"text": "a", "score": 1.5}))
    with pytest.raises(ValueError, match=r"^at_least=nan"):
        LabelledSource(files=files, at_least=float("nan"))


def test_rationales_are_lists_of_numbers(tmp_path):
    for change, wrong in (
        ({"post_tokens": "a b"}, "`post_tokens` is text, not a list"),
        ({"post_tokens": ["a", 3]}, "`post_tokens` item 1 is a number, not text"),
        ({"rationales": [["0", 1]]}, "`rationales` item 0 item 0 is text, not a number"),
        ({"annotators": {"label": ["1"]}}, r"`annotators\.label` is '1', and positive has 1"),
    ):
        with pytest.raises(ValueError, match=rf"jsonl:1: {wrong}"):
            rationales(write(tmp_path, POST | change))


BROKEN = {
    "cut.jsonl.gz": (gzip.compress(b'{"text": "a kite"}\n' * 500)[:-20], "no whole .gz file"),
    "cut.jsonl.xz": (lzma.compress(b'{"text": "a kite"}\n' * 500)[:-20], "no whole .xz file"),
    "plain.jsonl.gz": (b'{"text": "a kite"}\n', "no whole .gz file"),
    "plain.jsonl.xz": (b'{"text": "a kite"}\n', "no whole .xz file"),
    "noise.jsonl.gz": (gzip.compress(b"a" * 900, mtime=0)[:10] + b"\xff" * 60, "no whole .gz file"),
    "changed.jsonl.gz": (gzip.compress(b'{"text": "a"}')[:-8] + b"\0" * 8, "no whole .gz file"),
    "plain.parquet": (b'{"text": "a kite"}\n' * 9, "no whole Parquet file"),
    "empty.parquet": (b"", "no whole Parquet file"),
    "packed.jsonl": (gzip.compress(b'{"text": "a kite"}\n'), "not UTF-8 text"),
    "latin.txt": ("naïve".encode("latin-1"), "not UTF-8 text"),
    "windows.jsonl": ('{"text": "a"}'.encode("utf-16"), "not UTF-8 text"),
    "deep.jsonl": (b'{"text": ' + b"[" * 200_000, r":1: not JSON that can be read|:1: not JSON"),
    "digits.jsonl": (b'{"text": ' + b"1" * 5000 + b"}", ":1: not JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_or_misnamed_file_is_one_line(tmp_path, name):
    content, wrong = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^files=.*{re.escape(name)}.*({wrong})") as caught:
        documents(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)


def test_lists_of_words_are_checked_too(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(b"kite")
    with pytest.raises(ValueError, match=r"^files=.*a\.txt\.gz: it is no whole"):
        read_words(f"{tmp_path}/a.txt.gz")
    (tmp_path / "b.csv").write_text("word\n" + "a" * 200_000)
    with pytest.raises(ValueError, match=r"^files=.*b\.csv: it is no \.csv file"):
        read_words(f"{tmp_path}/b.csv", "word")


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST_LINE", 40)
    files = write(tmp_path, {"text": "a"}, {"text": "b" * 100})
    with pytest.raises(ValueError, match=r"records\.jsonl:2: a line of more than"):
        documents(files)


@pytest.mark.parametrize(
    "column",
    [pa.array([1, 2]), pa.array([b"a", b"b"]), pa.array([date(2026, 1, 1)] * 2), pa.array([["a"], ["b"]]),
     pa.array([{"a": 1}] * 2)],
)  # fmt: skip
def test_a_parquet_column_of_another_type_is_named(tmp_path, column):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.table({"text": column, "prompt": column}), path)
    for reader, field in ((documents, "text"), (local_prompts, "prompt")):
        with pytest.raises(ValueError, match=rf"rows\.parquet, row 0: `{field}` is .*, not text"):
            reader(files=str(path))


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(BOM + b"harbour\nkite")
    (tmp_path / "a.jsonl").write_bytes(BOM + b'{"text": "harbour"}')
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(BOM + b'{"text": "harbour"}'))
    (tmp_path / "a.csv").write_bytes(BOM + b"word,weight\nharbour,1\nkite,2")
    assert read_words(f"{tmp_path}/a.txt") == read_words(f"{tmp_path}/a.csv", "word") == ["harbour", "kite"]
    assert [p.text for p in local_prompts(files=f"{tmp_path}/a.txt")] == ["harbour", "kite"]
    assert [d.text for d in documents(f"{tmp_path}/*.jsonl*")] == ["harbour"] * 2


def test_records_are_not_read_from_text_files(tmp_path):
    (tmp_path / "a.txt").write_text("a kite")
    for reader in (local_queries, local_pairs, labelled, scores, lambada, bold_prompts):
        with pytest.raises(ValueError, match=r"a\.txt: a \.txt file has no fields"):
            reader(files=f"{tmp_path}/a.txt")


def test_a_text_file_has_one_prompt_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo \n")
    prompts = local_prompts(files=f"{tmp_path}/a.txt")
    assert [(p.text, p.record.rpartition(":")[2]) for p in prompts] == [("one", "1"), ("two ", "3")]
    assert [p.text for p in local_prompts(files=f"{tmp_path}/a.txt", separator=r"\n\n")] == ["one", "two \n"]
    assert [p.text for p in local_prompts(files=f"{tmp_path}/a.txt", separator=None)] == ["one\n\ntwo \n"]
    (tmp_path / "b.txt").write_text("a single one")
    assert len(local_prompts(files=f"{tmp_path}/b.txt")) == 1


def test_a_separator_is_written_as_on_a_command_line_and_occurs(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n")
    (tmp_path / "b.txt").write_text("three")
    source = f"{tmp_path}/*.txt"
    for separator in (r"\n\n", "\n\n", r"\r\n\r\n"):
        assert [d.text for d in documents(source, separator=separator)] == ["one", "two", "three"]
    with pytest.raises(ValueError, match=r"^separator='---': it occurs nowhere in .*a\.txt, .*b\.txt$"):
        documents(source, separator="---")


def test_a_hub_record_is_checked_too(monkeypatch):
    rows = [{"text": "a"}, {"text": None}, {"text": 7}]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **options: rows)
    assert [d.record for d in HubSource(path="x/y", limit=1)] == [0]
    with pytest.raises(ValueError, match=r"^path=x/y, train record 2: `text` is a number, not text: 7"):
        list(HubSource(path="x/y"))


def test_a_hub_that_is_silent_is_said_before_it_is_asked_for_records(monkeypatch):
    for variable in hub.OFFLINE:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "answers", lambda: False)
    with pytest.raises(ValueError, match=r"^path=x/y: no folder here is called so, and \S+ does not answer; give a"):
        list(HubSource(path="x/y"))


def test_a_hub_that_may_not_be_asked_is_one_line(monkeypatch):
    def load(*args, **options):
        raise ConnectionError("Couldn't reach 'x/y' on the Hub (OfflineModeIsEnabled)\nand more")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.load_dataset", load)
    message = (
        r"^path=x/y: Couldn't reach 'x/y' on the Hub \(OfflineModeIsEnabled\); give a folder that it was copied to$"
    )
    with pytest.raises(ValueError, match=message):
        list(HubSource(path="x/y"))


def test_where_takes_values_of_another_type_for_a_mistake(tmp_path):
    files = write(tmp_path, {"text": "a", "class": 0, "label": 1}, {"text": "b", "class": "0", "label": 0})
    for source in (LocalSource(files=files, where={"class": [0]}),
                   LabelledSource(files=files, positive=[1], where={"class": [0]})):  # fmt: skip
        with pytest.raises(ValueError, match=r"jsonl:2: `class` is '0', and where\.class has 0: they differ"):
            list(source)
    assert len(documents(files, where={"class": [0, "0"]})) == 2


@pytest.mark.parametrize("weight", [None, float("inf"), float("nan"), "2", -1, True])
def test_weights_and_shares_are_finite_numbers(weight):
    settings = dict(sources={"a": []}, tokenizer=None, block_length=8)
    with pytest.raises(ValueError, match=r"^weights\.a=.*: it is a finite number, 0 or more"):
        CorpusSettings(**settings, weights={"a": weight})
    with pytest.raises(ValueError, match=r"^test=.*: it is a finite number, 0 or more"):
        CorpusSettings(**settings, test=weight)


def test_a_renamed_file_is_another_one(tmp_path):
    line = '{"text": "a kite"}\n{"text": "a boat"}'
    for name in ("mine.txt", "mine.jsonl"):
        (tmp_path / name).write_text(line)
    text, lines = (LocalSource(files=f"{tmp_path}/mine.{kind}") for kind in ("txt", "jsonl"))
    assert describe(text) != describe(lines) and (len(list(text)), len(list(lines))) == (1, 2)


def test_an_empty_line_is_no_record_and_a_nested_field_of_null_is_not_there(tmp_path):
    files = write(tmp_path, "", {"a": {"b": 1}}, {"a": None})
    first, second = read_records(files)
    assert first.get("a.b") == 1
    with pytest.raises(ValueError, match=r"jsonl:3: no field `a\.b`; the record has a"):
        second.get("a.b")
