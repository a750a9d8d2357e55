"""A label belongs to the class that it was given, or to none: never silently to the other one."""

import json

import pytest

from ifguide.corpus.labelled import LabelledSource
from ifguide.corpus.queries import local_queries
from ifguide.corpus.schema import Classes


@pytest.fixture(params=["queries", "labelled"])
def read(request, tmp_path):
    """Labels, and settings → which of them are positive."""

    def made(labels, **settings):
        path = tmp_path / "rows.jsonl"
        rows = [
            {"text": f"a {n}", "prompt": "a", "continuation": f" {n}", "label": one} for n, one in enumerate(labels)
        ]
        path.write_text("\n".join(map(json.dumps, rows)))
        if request.param == "queries":
            return [query.toxic for query in local_queries(files=str(path), **settings)]
        return [row.toxic for row in LabelledSource(files=str(path), **settings)]

    return made


def test_values_decide(read):
    assert read(["toxic", "fine", "toxic", "dull"], positive=["toxic"]) == [True, False, True, False]
    assert read([1, 0, True, False, 1.0], positive=["toxic", 1, True]) == [True, False, True, False, True]
    assert read(["toxic", "fine", "Toxic"], positive=["toxic", "Toxic"], negative=["fine"]) == [True, False, True]


@pytest.mark.parametrize(
    "label, positive, near",
    [("Toxic", ["toxic"], "'toxic'"), (" toxic", ["toxic"], "'toxic'"), ("1", [1], "1"), (1, ["1"], "'1'"),
     ("1.0", [1], "1"), ("true", [True], "True"), (True, ["True"], "'True'")],
)  # fmt: skip
def test_what_is_nearly_a_value_is_refused(read, label, positive, near):
    with pytest.raises(ValueError) as caught:
        read([positive[0], "fine", label], positive=positive)
    assert f"rows.jsonl:3: `label` is {label!r}, and positive has {near}" in str(caught.value)
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: .*, and negative has 'fine'"):
        read(["toxic", "fine", "FINE"], positive=["toxic"], negative=["fine"])


def test_with_both_classes_declared_nothing_else_is_taken(read):
    with pytest.raises(
        ValueError, match=r"rows\.jsonl:3: `label` is 'dull', which is neither .*'toxic', 'fine', 'dull'"
    ):
        read(["toxic", "fine", "dull"], positive=["toxic"], negative=["fine"])


def test_a_positive_value_occurs(read):
    with pytest.raises(
        ValueError, match=r"^positive=\['rude'\]: no `label`.*the labels that occur are 'toxic', 'fine'"
    ):
        read(["toxic", "fine"], positive=["rude"])


def test_classes_are_lists_without_a_common_value(read):
    for settings, wrong in (
        ({"positive": "toxic"}, r"^positive='toxic': it is a list"),
        ({"positive": []}, r"^positive=\[\]: it is a list"),
        ({"positive": ["a"], "negative": ["b", "a"]}, r"^negative=\['b', 'a'\]: 'a' is also in `positive`"),
    ):
        with pytest.raises(ValueError, match=wrong):
            read(["a", "b"], **settings)
    assert Classes([1]).of("label", [("p", 2)], complete=False) == [False]


@pytest.mark.parametrize("label", [[1], {"a": 1}, float("nan")])
def test_a_query_has_a_label(tmp_path, label):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "continuation": " b", "label": one} for one in ("toxic", "fine", label)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"^files=.*rows\.jsonl:3: `label` is (a list|an object|not finite)"):
        local_queries(files=str(path))


def test_what_has_no_label_is_in_neither_class_and_counted(read, caplog):
    """Each of two insults and two harmless texts is where its label says; those without one are nowhere."""
    assert read(["toxic", None, "fine", "toxic", None, "fine"], positive=["toxic"]) == [True, False] * 2
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "2 records whose `label` is null are left out"
    ]


def test_negative_needs_positive(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "b", "label": 1}')
    with pytest.raises(ValueError, match=r"^negative=\[0\]: values that mean toxic go into `positive`"):
        LabelledSource(files=str(path), negative=[0])
