"""Short texts that share their words and not their meaning: do sums of token scores tell bad from good ones?

HateCheck (Röttger et al., 2021) holds hateful cases beside contrasts of the same words; the Bias Madlibs (Dixon et al.,
2018) one template with many identities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.records import read_records
from ifguide.influence.scoring import sample_rows
from ifguide.statistics import roc_auc, roc_auc_interval

MADLIBS = 10_000


@dataclass(frozen=True)
class Contrasts:
    """Texts, whether each is bad, and whom it speaks of (empty where nobody)."""

    texts: list[str]
    bad: NDArray[np.bool_]
    groups: NDArray[np.str_]

    @classmethod
    def of(cls, cases: Sequence[tuple[str, bool, str]]) -> "Contrasts":
        texts, bad, groups = zip(*cases, strict=True)
        return cls(list(texts), np.array(bad), np.array(groups))


def read_contrasts(folder: Path) -> dict[str, Contrasts]:
    """Title → cases of `toxicity_labelled/hatecheck.jsonl.gz` and of `bias_madlibs_77k.jsonl.gz` in a folder.

    Raises:
        ValueError: a file is missing.
    """
    check, every = ([row.values for row in read_records(folder / "toxicity_labelled" / f"{name}.jsonl.gz")]
                    for name in ("hatecheck", "bias_madlibs_77k"))  # fmt: skip
    madlibs = [every[index] for index in sample_rows(len(every), MADLIBS, 0)]
    return {
        "HateCheck: hateful cases and their non-hateful contrasts": Contrasts.of(
            [(one["test_case"], one["label_gold"] == "hateful", one["target_ident"] or "") for one in check]
        ),
        f"Bias madlibs ({MADLIBS:,} of them): one template, many identities": Contrasts.of(
            [(one["Text"], one["Label"] == "BAD", "") for one in madlibs]
        ),
    }


def contrast_quality(sums: NDArray[np.floating], cases: Contrasts) -> dict[str, float]:
    """How well sums of scores, [texts], tell bad texts from good ones, whoever they speak of.

    Returns:
        ROC AUC with its 95 % interval (`from`, `to`) and the share of good texts above the median bad one; where groups
        are known and have texts of both kinds, the lowest ROC AUC and the largest share of a group.
    """
    bad, threshold = cases.bad, np.median(sums[cases.bad])

    def above(member: NDArray[np.bool_]) -> float:
        return float((sums[member & ~bad] > threshold).mean())

    low, high = roc_auc_interval(sums, bad, resamples=300)
    found = {"ROC AUC": roc_auc(sums, bad), "from": low, "to": high,
             "good above the median bad": above(np.ones_like(bad))}  # fmt: skip
    members = [cases.groups == group for group in sorted(set(cases.groups) - {""})]
    both = [member for member in members if bad[member].any() and not bad[member].all()]
    if both:
        found["lowest ROC AUC of a group"] = min(roc_auc(sums[member], bad[member]) for member in both)
        found["most good above the median bad in a group"] = max(map(above, both))
    return found
