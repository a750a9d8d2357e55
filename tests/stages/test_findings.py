"""Warnings fire on bad inputs and stay silent on good ones."""

import numpy as np
import pytest

from ifguide.stages import findings

GOOD_MASK = {"documents": 200, "largest_document": 0.02, "fragments": 0.02}


def held_out(student, unigram):
    return {
        name: [{"r2": 0.9, "spearman": 0.9}, {"r2": r2, "spearman": 0.5}]
        for name, r2 in (("student", student), ("unigram", unigram), ("shuffled", 0.01))
    }


@pytest.mark.parametrize(
    "found, warns",
    [
        (findings.of_proxy(2.2, 5.9), ()),
        (findings.of_proxy(5.7, 5.9), ("learned hardly more",)),
        (findings.of_proxy(2.2, 5.9, findings.of_share(0.99, None)), ()),
        (
            findings.of_proxy(2.2, 5.9, findings.of_share(0.14, "experts.down")),
            ("tracks 14% of the parameters in the decoder blocks: experts.down is",),
        ),
        (findings.of_direction(0.9, 0, 1000), ()),
        (findings.of_direction(0.1, 0, 12), ("mostly noise",)),
        (findings.of_direction(0.9, 3, 12), ("3 continuations show the behaviour and do not",)),
        (findings.of_direction(None, 0, 2), ("too few queries",)),
        (findings.of_mask(3000, 300_000, GOOD_MASK, []), ()),
        (findings.of_mask(3000, 300_000, {**GOOD_MASK, "largest_document": 0.8}, []), ("80% of the mask lies in one",)),
        (findings.of_mask(3000, 300_000, {**GOOD_MASK, "fragments": 0.7}, []), ("70% of the mask are pieces",)),
        (findings.of_mask(3, 300, {"documents": 1, "largest_document": 1.0, "fragments": 1.0}, []), ()),
        (findings.of_mask(3, 300, GOOD_MASK, ["fell short"]), ("fell short",)),
        (findings.of_scores({"self_check": {"relative_error": [1e-7, 3e-6]}, "dtype": "float32"}), ()),
        (findings.of_scores({}), ()),
        (findings.of_student(held_out(0.3, 0.2)), ()),
        (findings.of_student(held_out(0.05, 0.02)), ("explains 5% of the variance of exact scores of unseen blocks",)),
        (findings.of_student(held_out(0.3, 0.3)), ("means of token ids 30%: it has learned no more",)),
        (findings.of_judge("it", {"texts": 9}), ()),
        (findings.of_judge("it", {"roc_auc": 0.9, "probabilities": [0.02, 0.4, 0.97]}), ()),
        (findings.of_judge("it", {"roc_auc": 0.5, "probabilities": [0.1, 0.4, 0.9]}), ("hardly tells",)),
        (findings.of_judge("it", {"roc_auc": 0.8, "probabilities": [0.42, 0.47, 0.52]}), ("measures nothing",)),
        (findings.of_judged(np.array([[0.01, 0.02]])), ()),
        (findings.of_judged(np.array([[0.42, 0.52]])), ("0.42–0.52: it measures nothing",)),
    ],
)
def test_warnings(found, warns):
    given = found.get(findings.WARNINGS, [])
    assert len(given) == len(warns) and all(part in one for part, one in zip(warns, given, strict=True))
