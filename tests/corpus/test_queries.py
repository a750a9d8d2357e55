import json

import pytest

from ifguide.corpus.documents import LabelledText, Prompt, Query
from ifguide.corpus.prompts import local_prompts
from ifguide.corpus.queries import (
    check_disjoint,
    check_queries,
    encode_queries,
    labelled_queries,
    local_queries,
    paired_queries,
)
from ifguide.corpus.real_toxicity_prompts import real_toxicity_prompts, real_toxicity_queries
from ifguide.corpus.tokenizers import make_tokenizer


@pytest.fixture
def rtp(tmp_path):
    records = [
        {
            "filename": f"{index // 2}.txt",
            "begin": index,
            "end": index + 9,
            "prompt": {"text": f"prompt {index % 55}", "toxicity": (index % 5) / 4},
            "continuation": {"text": f" continuation {index}", "toxicity": None if index == 7 else (index % 3) / 2},
        }
        for index in range(80)
    ]
    path = tmp_path / "rtp.jsonl"
    path.write_text("\n".join(map(json.dumps, [*records, *records[:5]])))  # some records are there twice
    return str(path)


def test_queries_and_prompts_share_no_record_and_no_source_document(rtp):
    queries, prompts = real_toxicity_queries(files=rtp), real_toxicity_prompts(files=rtp)
    assert queries and prompts
    check_disjoint(queries, prompts)
    assert not {q.record.split(":")[0] for q in queries} & {p.record.split(":")[0] for p in prompts}
    assert len({q.record for q in queries}) == len(queries)


def test_validation_and_test_prompts_share_no_source_document_and_no_text(rtp):
    both = real_toxicity_prompts(files=rtp)
    validation, test = (real_toxicity_prompts(files=rtp, part=part) for part in ("validation", "test"))
    assert validation and test and {*validation, *test} <= {*both}
    for of in (lambda p: p.record.split(":")[0], lambda p: p.text):
        assert not {of(p) for p in validation} & {of(p) for p in test}
    left = {*both} - {*validation, *test}
    assert left and {p.text for p in left} <= {p.text for p in validation}, "only what would be in both is in neither"
    with pytest.raises(ValueError, match="known: all, validation, test"):
        real_toxicity_prompts(files=rtp, part="dev")


def test_thresholds_decide_and_leave_out_what_lies_between(rtp):
    queries = real_toxicity_queries(files=rtp, toxic_at_least=0.9, nontoxic_below=0.2)
    assert {(int(q.record.split(":")[1]) % 3, q.toxic) for q in queries} == {(0, False), (2, True)}
    prompts = real_toxicity_prompts(files=rtp, limit=3)
    assert [p.subset for p in prompts] == ["toxic"] * 3 + ["nontoxic"] * 3
    with pytest.raises(ValueError, match="thresholds lie"):
        real_toxicity_queries(files=rtp, toxic_at_least=0.2, nontoxic_below=0.5)


def test_local_queries_and_prompts_take_any_behaviour(tmp_path):
    path = tmp_path / "queries.jsonl"
    rows = [{"q": "say", "a": " yes", "flattery": "high"}, {"q": "", "a": "no", "flattery": "low"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    queries = local_queries(files=str(path), prompt="q", continuation="a", label="flattery", positive=["high"])
    assert [(q.prompt, q.continuation, q.toxic) for q in queries] == [("say", " yes", True), ("", "no", False)]
    check_queries(queries)
    prompts = local_prompts(files=str(path), field="a", subset="flattery")
    assert [(p.text, p.subset) for p in prompts] == [(" yes", "high"), ("no", "low")]


def test_the_boundary_comes_from_one_tokenisation():
    tokenizer = make_tokenizer(["the foot and the football game " * 20], vocabulary=280)
    cases = [("the foot", " and more"), ("the foot", "ball game"), ("", "the game"), ("naïve 🤖", " yes")]
    encoded = encode_queries([Query(p, c, True, "r") for p, c in cases], tokenizer, max_length=50)
    for (prompt, continuation), query in zip(cases, encoded, strict=True):
        whole = tokenizer.backend_tokenizer.encode(prompt + continuation).ids
        assert query.input_ids.tolist() == [tokenizer.eos_token_id, *whole]
        text = tokenizer.decode(query.input_ids[query.continuation])
        assert text.endswith(continuation.strip()) and not query.continuation[0]
        # only a token that reaches over the boundary may bring in a piece of the prompt
        assert len(text) <= len(continuation) + len(" foot")


def test_a_long_query_keeps_its_end():
    tokenizer = make_tokenizer(["a b c d e f g"], vocabulary=270)
    (query,) = encode_queries([Query("a b c d", " e f g", True, "r")], tokenizer, max_length=4)
    last = tokenizer.backend_tokenizer.encode("a b c d e f g").ids[-3:]
    assert query.input_ids.tolist() == [tokenizer.eos_token_id, *last], "and what it begins after"
    assert query.continuation.tolist() == [False, True, True, True]
    (alone,) = encode_queries([Query("a b c d", " e f g", True, "r")], tokenizer, max_length=1)
    assert alone.input_ids.tolist() == [tokenizer.eos_token_id] and not alone.continuation.any()


def test_queries_without_a_label_are_left_out_and_counted(tmp_path, caplog):
    rows = [{"prompt": "a", "continuation": " b", "label": one} for one in ("toxic", None, "fine", None)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [q.toxic for q in local_queries(files=str(path))] == [True, False]
    assert caplog.messages == [f"files={path}: 2 records whose `label` is null are left out"]
    path.write_text(json.dumps(rows[1]))
    with pytest.raises(ValueError, match="queries: none has a label"):
        check_queries(local_queries(files=str(path)))


@pytest.mark.parametrize("toxic", [True, False])
def test_one_class_is_refused(toxic):
    with pytest.raises(ValueError, match="all 3 show" if toxic else "all 3 do not show"):
        check_queries([Query("p", " c", toxic, "r")] * 3)


def test_empty_continuations_and_shared_records_are_refused():
    with pytest.raises(ValueError, match="empty continuation"):
        check_queries([Query("p", " ", True, "r"), Query("p", " c", False, "s")])
    with pytest.raises(ValueError, match="also queries"):
        check_disjoint([Query("p", " c", True, "r")], [Prompt("other", "all", "r")])
    with pytest.raises(ValueError, match="also queries"):
        check_disjoint([Query("p", " c", True, "r")], [Prompt("p", "all", "s")])


def test_real_toxicity_prompts_are_read(datasets_folder):
    files = str(datasets_folder / "rtp" / "quark_val.jsonl.gz")
    queries, prompts = real_toxicity_queries(files=files), real_toxicity_prompts(files=files)
    check_queries(queries)
    check_disjoint(queries, prompts)
    assert len(queries) + len(prompts) > 4800
    assert {p.subset for p in prompts} == {"toxic", "nontoxic"}
    for part in ("validation", "test"):
        half = real_toxicity_prompts(files=files, part=part)
        assert min(sum(p.subset == subset for p in half) for subset in ("toxic", "nontoxic")) >= 250


def test_queries_serve_as_labelled_texts_and_as_pairs():
    rows = [("a", " bad", True), ("b", " good", False), ("c", " bad ", True), ("d", " worse", True), ("e", " ", False)]
    queries = [Query(prompt, continuation, toxic, prompt) for prompt, continuation, toxic in rows]
    assert labelled_queries(queries=queries) == [
        LabelledText("bad", 1.0), LabelledText("good", 0.0), LabelledText("worse", 1.0),
    ]  # fmt: skip
    pairs = paired_queries(queries=[*queries[:4], Query("f", " fine", False, "f")])
    assert [pair.rejected for pair in pairs] == [" bad", " bad ", " worse"]
    assert {pair.chosen for pair in pairs[:2]} == {" good", " fine"} and pairs[2].chosen in {" good", " fine"}
    assert pairs == paired_queries(queries=[*queries[:4], Query("f", " fine", False, "f")])
    with pytest.raises(ValueError, match="one that shows the behaviour, and one that does not"):
        paired_queries(queries=queries[:1])
