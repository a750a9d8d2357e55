"""Sums of scores over short texts that share their words."""

import gzip
import json

import numpy as np
import pytest

from ifguide.evaluation.contrasts import Contrasts, contrast_quality, read_contrasts


def test_quality_is_that_of_pairs_and_of_the_worst_group():
    cases = Contrasts.of([("a", True, "x"), ("b", False, "x"), ("c", True, "y"), ("d", False, "y"), ("e", False, ""),
                          ("f", True, "z")])  # fmt: skip
    sums = np.array([3.0, 1.0, 2.0, 2.5, 0.0, 4.0])
    found = contrast_quality(sums, cases)
    pairs = [3 > 1, 3 > 2.5, 3 > 0, 2 > 1, 2 > 2.5, 2 > 0, 4 > 1, 4 > 2.5, 4 > 0]
    assert found["ROC AUC"] == pytest.approx(np.mean(pairs)) and found["from"] <= found["ROC AUC"] <= found["to"]
    assert found["good above the median bad"] == 0.0  # the median bad sum is 3
    assert found["lowest ROC AUC of a group"] == 0.0  # of y; z has no good text
    assert found["most good above the median bad in a group"] == 0.0
    lower = contrast_quality(np.array([1.0, 3.0, 2.0, 2.5, 0.0, 0.5]), cases)  # the median bad sum is 1
    assert lower["good above the median bad"] == pytest.approx(2 / 3)
    assert lower["most good above the median bad in a group"] == 1.0


def test_without_groups_nothing_is_said_of_them():
    cases = Contrasts.of([("a", True, ""), ("b", False, "")])
    assert set(contrast_quality(np.array([1.0, 0.0]), cases)) == {"ROC AUC", "from", "to", "good above the median bad"}


def test_the_published_files_are_read(tmp_path):
    folder = tmp_path / "toxicity_labelled"
    folder.mkdir()
    files = {
        "hatecheck": [{"test_case": "I hate x.", "label_gold": "hateful", "target_ident": "x"},
                      {"test_case": "I do not hate x.", "label_gold": "non-hateful", "target_ident": None}],
        "bias_madlibs_77k": [{"Text": "x is awful", "Label": "BAD"}, {"Text": "x is kind", "Label": "NOT_BAD"}],
    }  # fmt: skip
    for name, rows in files.items():
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(map(json.dumps, rows)))
    check, madlibs = read_contrasts(tmp_path).values()
    assert check.texts == ["I hate x.", "I do not hate x."] and check.groups.tolist() == ["x", ""]
    assert check.bad.tolist() == [True, False]
    assert dict(zip(madlibs.texts, madlibs.bad.tolist(), strict=True)) == {"x is awful": True, "x is kind": False}
