import json

import numpy as np
import pytest

from ifguide.corpus.labelled import LabelledSource, TextScores, hash_fraction


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_labels_are_values_or_numbers(tmp_path):
    rows = [
        {"t": "a", "class": 0, "s": {"x": "0.9"}},
        {"t": "b", "class": 2, "s": {"x": 0.5}},
        {"t": "a", "class": 2, "s": {"x": 0}},
        {"t": " ", "class": 1, "s": {"x": 1}},
        {"t": "c", "class": 1, "s": {"x": None}},
        {"t": "d", "class": 1, "s": {"x": 0.1}},
        {"t": None, "class": 1, "s": {"x": 0.1}},
    ]
    files = write(tmp_path / "rows.jsonl", rows)
    by_value = LabelledSource(files=files, text="t", label="class", positive=[0, 1])
    assert [(row.text, row.toxic) for row in by_value] == [("a", True), ("b", False), ("c", True), ("d", True)]
    by_number = LabelledSource(files=files, text="t", label="s.x", at_least=0.5)
    assert [(row.text, row.toxic) for row in by_number] == [("a", True), ("b", True), ("d", False)]
    few = LabelledSource(files=files, text="t", label="class", positive=[0], where={"class": [1, 2]}, limit=2)
    assert [row.text for row in few] == ["b", "a"]


def test_labels_that_cannot_be_read_are_named(tmp_path):
    files = write(tmp_path / "rows.jsonl", [{"text": "a", "label": "toxic"}])
    with pytest.raises(ValueError, match="give one of `positive`"):
        LabelledSource(files=files, positive=[1], at_least=0.5)
    for options in ({}, {"at_least": 0.5}):
        with pytest.raises(
            ValueError,
            match="jsonl:1: `label` is text, not a number; name values that mean toxic in `positive`: 'toxic'",
        ):
            list(LabelledSource(files=files, **options))
    with pytest.raises(ValueError, match="no labelled text"):
        list(LabelledSource(files=files, positive=["toxic"], where={"label": ["fine"]}))


def test_scores_of_texts_are_read_and_checked(tmp_path):
    rows = [{"text": "a", "attributes": {"TOXICITY": 0.25}}, {"text": "b", "attributes": {"TOXICITY": 1}}]
    options = {"categories": {"toxicity": "attributes.TOXICITY"}}
    files = write(tmp_path / "scores.jsonl", [*rows, rows[0]])
    assert TextScores(files=files, **options).read() == {"a": {"toxicity": 0.25}, "b": {"toxicity": 1}}
    with pytest.raises(ValueError, match="two different scores"):
        TextScores(files=write(tmp_path / "two.jsonl", [*rows, {**rows[1], "text": "a"}]), **options).read()
    with pytest.raises(ValueError, match=r"none\.jsonl:1: `attributes\.TOXICITY` is null, not a number"):
        TextScores(
            files=write(tmp_path / "none.jsonl", [{"text": "a", "attributes": {"TOXICITY": None}}]), **options
        ).read()


def test_a_hash_fraction_texts_is_a_fixed_sample():
    shares = np.array([hash_fraction(f"text {i}") for i in range(2000)])
    assert abs((shares < 0.3).mean() - 0.3) < 0.03 and hash_fraction("text 7") == shares[7]
