"""Short texts in pairs of bad and good: do sums of token scores tell them apart, whoever they speak of?"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.sources import read_records
from ifguide.corpus.words import WORD, word_log_odds
from ifguide.influence.scoring import sample_rows
from ifguide.statistics import roc_auc, roc_auc_interval

MADLIBS = 10_000
RESAMPLES = 300


def case_quality(
    study, names: list[str], texts: list[str], bad: NDArray[np.bool_], groups: NDArray[np.str_]
) -> dict[str, dict[str, float]]:
    """Sums of scores over short texts, bad against good ones, for each variant that can score new text.

    Args:
        texts, bad, groups: the cases; a group is whom a case speaks of, empty where nobody.
    """
    base = study.base
    encodings = base.corpus.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    width = 1 + max(len(encoding.ids) for encoding in encodings)
    ids = np.full((len(texts), width), base.corpus.tokenizer.eos_token_id, dtype=np.int64)
    inside = np.zeros(ids.shape, dtype=bool)
    for row, encoding in enumerate(encodings):
        ids[row, 1 : 1 + len(encoding.ids)] = encoding.ids
        inside[row, 1 : 1 + len(encoding.ids)] = True
    sums = {name: (study.score_text(name, ids) * inside).sum(1) for name in names}
    words = word_log_odds(next(iter(base.queries.values())))
    sums["word list: log-odds between queries"] = np.array(
        [sum(words.get(word.lower(), 0.0) for word in WORD.findall(text)) for text in texts]
    )
    sums["classifier on the whole text"] = base.classifier(texts)["toxicity"]
    rows: dict[str, dict[str, float]] = {}
    for name, total in sums.items():
        threshold = np.median(total[bad])
        by_group = {
            group: (roc_auc(total[member], bad[member]), float((total[member & ~bad] > threshold).mean()))
            for group in sorted(set(groups) - {""})
            if bad[member := groups == group].any() and not bad[member].all()
        }
        low, high = roc_auc_interval(total, bad, resamples=RESAMPLES)
        rows[name] = {
            "ROC AUC": roc_auc(total, bad),
            "from": low,
            "to": high,
            "good above the median bad": float((total[~bad] > threshold).mean()),
        }
        if by_group:
            worst = max(by_group, key=lambda group: by_group[group][1])
            rows[name]["lowest ROC AUC of a group"] = min(auc for auc, _ in by_group.values())
            rows[name]["most good above the median bad in a group"] = by_group[worst][1]
    return rows


def contrast_cases(datasets: Path) -> dict[str, tuple[list[str], NDArray[np.bool_], NDArray[np.str_]]]:
    """Title → texts, which of them are bad, whom they speak of."""
    check = [record for _, record in read_records(datasets / "toxicity_labelled" / "hatecheck.jsonl.gz")]
    every = [record for _, record in read_records(datasets / "toxicity_labelled" / "bias_madlibs_77k.jsonl.gz")]
    madlibs = [every[index] for index in sample_rows(len(every), MADLIBS, 0)]
    return {
        "HateCheck: hateful cases and their non-hateful contrasts": (
            [record["test_case"] for record in check],
            np.array([record["label_gold"] == "hateful" for record in check]),
            np.array([record["target_ident"] or "" for record in check]),
        ),
        f"Bias madlibs ({MADLIBS:,} of them): one template, many identities": (
            [record["Text"] for record in madlibs],
            np.array([record["Label"] == "BAD" for record in madlibs]),
            np.array([""] * len(madlibs)),
        ),
    }
