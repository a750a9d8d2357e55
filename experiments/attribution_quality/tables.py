"""Tables of the page, and sentences that only state comparisons of the measured numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from study import Study

from ifguide.corpus.blocks import LABELS
from ifguide.corpus.tokenizers import token_texts
from ifguide.evaluation.attribution import SHARES, known_tokens
from ifguide.influence.pooling import type_sums

KEY = "precision_at_0.01"


def table(rows: dict[str, dict[str, Any]], study: Study) -> str:
    header = ["", "ROC AUC", *(f"precision at {share:.1%}" for share in SHARES), "scored exactly"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, row in rows.items():
        cells = [_with_interval(row, "roc_auc"), *(_with_interval(row, f"precision_at_{s}") for s in SHARES)]
        share = f"{study.share(name):.1%}" if name in study.pipelines else "–"
        lines.append(f"| {name} | {' | '.join(cells)} | {share} |")
    return "\n".join(lines)


def _with_interval(row: dict[str, Any], key: str) -> str:
    low, high = row[f"{key}_interval"]
    return f"{row[key]:.3f} ({low:.3f}–{high:.3f})"


def mask_quality(study: Study, name: str) -> dict[str, float]:
    """What Algorithm 1 selects from a variant's scores."""
    mask, documents = study.mask(name)[:], study.split.documents
    toxic = (documents["label"] == 1)[study.split.documents_of(np.arange(mask.size))].reshape(mask.shape)
    known = known_tokens(study.split)
    return {
        "tokens": int(mask.sum()),
        "in toxic posts": float(toxic[mask].mean()),
        "in toxic spans, of those where spans are known": float(study.annotation[mask & known].mean()),
        "of toxic spans": float(mask[study.annotation].mean()),
    }


def findings(rows: dict[str, dict[str, Any]], ours: str) -> str:
    """Sentences that only state comparisons of the measured numbers."""
    others = [name for name in rows if name.startswith(("exact (", "word list", "classifier"))]
    lines = []
    for key, title in (("roc_auc", "ROC AUC"), (KEY, "precision at 1 %")):
        for name in others:
            (low, high), (least, most) = rows[ours][f"{key}_interval"], rows[name][f"{key}_interval"]
            verdict = "above" if low > most else "**below**" if high < least else "not told apart from"
            lines.append(
                f"- {title}: scores {ours}, {rows[ours][key]:.3f}, are {verdict} those of the "
                f"{name.split(':')[0]}, {rows[name][key]:.3f}."
            )
    return "\n".join(lines)


def case_findings(rows: dict[str, dict[str, float]], *ours: str) -> str:
    """The same of cases: whether a variant tells bad from good better than the word list and the classifier do."""
    lines = []
    for name in ours:
        for rival in (row for row in rows if row.startswith(("word list", "classifier"))):
            mine, theirs = rows[name], rows[rival]
            above, below = mine["from"] > theirs["to"], mine["to"] < theirs["from"]
            verdict = "above" if above else "**below**" if below else "not told apart from"
            lines.append(
                f"- ROC AUC: sums of scores {name}, {mine['ROC AUC']:.3f}, are {verdict} those of the "
                f"{rival.split(':')[0]}, {theirs['ROC AUC']:.3f}."
            )
    return "\n".join(lines)


def agreement_table(means: dict[str, list[tuple[float, float, float]]]) -> str:
    numbers = range(len(next(iter(means.values()))))
    lines = [f"| marked by | {' | '.join(map(str, numbers))} |", "|---" * (len(numbers) + 1) + "|"]
    for name, points in means.items():
        lines.append(f"| {name} | {' | '.join(f'{m:.3f} ({low:.3f}–{high:.3f})' for m, low, high in points)} |")
    return "\n".join(lines)


def plain_table(rows: dict[str, dict[str, float]]) -> str:
    header = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(header)} |", "|---" * (len(header) + 1) + "|"]
    for name, row in rows.items():
        cells = (f"{value:,}" if isinstance(value, int) else f"{value:.3f}" for value in row.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def top_types(study: Study, scores: NDArray[np.float32], count: int = 40) -> str:
    """Token types with the highest pooled score, their inner letters masked."""
    sums, counts = type_sums(scores[None], study.split.tokens, study.base.corpus.vocabulary)
    texts = token_texts(study.tokenizer)
    best = np.argsort(-(sums[0] / (counts + 20)))[:count]
    return ", ".join(f"`{_masked(texts[index])}`" for index in best)


def top_documents(study: Study, name: str, count: int = 10) -> str:
    """Source, record and label of the documents whose selected tokens have the highest sum of scores."""
    scores, mask, documents = study.scores(name), study.mask(name)[:], study.split.documents
    owner = study.split.documents_of(np.arange(mask.size))
    merit = np.bincount(owner, weights=np.where(mask, scores, 0).ravel(), minlength=len(documents))
    selected = np.bincount(owner, weights=mask.ravel(), minlength=len(documents))
    labels = {code: label or "not labelled" for label, code in LABELS.items()}
    lines = ["| source | record | label | selected tokens | sum of their scores |", "|---|---|---|---|---|"]
    for index in np.argsort(-merit, kind="stable")[:count]:
        row = documents[index]
        source, label = study.base.corpus.sources[row["source"]], labels[int(row["label"])]
        lines.append(f"| {source} | {row['record']} | {label} | {selected[index]:.0f} | {merit[index]:.4g} |")
    return "\n".join(lines)


def _masked(text: str) -> str:
    word = text.strip().replace("`", "'").replace("|", "¦") or "␣"
    return word if len(word) < 3 else f"{word[0]}{'*' * (len(word) - 2)}{word[-1]}"
