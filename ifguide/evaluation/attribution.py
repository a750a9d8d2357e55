"""How well token scores find the tokens that people (or the sample's writer) marked as toxic."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.blocks import LABELS, Split
from ifguide.corpus.documents import TOXIC
from ifguide.corpus.tokenizers import token_texts
from ifguide.corpus.words import WORD
from ifguide.statistics import percentiles, ranking_draws, ranking_intervals, roc_auc, roc_auc_interval

SHARES = (0.005, 0.01, 0.02, 0.05)
GROUPS = 100  # of blocks, in bootstrap intervals


def precision_at(scores: NDArray[np.float32], positive: NDArray[np.bool_], share: float) -> float:
    """Share of positives among the highest-scored `share` of all tokens; of ties at its border, as many as fit, on
    average."""
    count = max(1, round(share * scores.size))
    border = np.partition(scores.ravel(), -count)[-count]
    above, tied = scores > border, scores == border
    hits = positive[above].sum() + positive[tied].mean() * (count - above.sum())
    return float(hits / count)


def attribution_metrics(
    scores_BT: NDArray[np.float32],
    mask_BT: NDArray[np.bool_],
    annotated_BT: NDArray[np.bool_],
    known_BT: NDArray[np.bool_],
    word_list_BT: NDArray[np.float32],
) -> dict[str, float]:
    """Scores and mask against annotated tokens; beside them a word list.

    Args:
        scores_BT, mask_BT, word_list_BT: token scores, the selection, and the scores of a word list.
        annotated_BT: tokens inside a known toxic span.
        known_BT: tokens that count: those of documents that are benign or annotated (`known_tokens`).

    Returns:
        `roc_auc`, `precision_at_<share>`, `annotated_share`, `mask_precision` (share of the mask that is annotated),
        `mask_recall` (share of the annotated tokens that is masked), and for the word list `word_list_roc_auc`,
        `word_list_precision_at_<share>`.
    """
    known = known_BT.copy()
    known[:, 0] = False  # has no score
    positive = annotated_BT[known]
    metrics = {"annotated_share": float(positive.mean())}
    for prefix, values_BT in (("", scores_BT), ("word_list_", word_list_BT)):
        values = values_BT[known]
        metrics[f"{prefix}roc_auc"] = roc_auc(values, positive)
        metrics |= {f"{prefix}precision_at_{share}": precision_at(values, positive, share) for share in SHARES}
    masked = mask_BT[known]
    if masked.any():
        metrics["mask_precision"] = float(positive[masked].mean())
    metrics["mask_recall"] = float(masked[positive].mean())
    return metrics


def attribution_quality(
    scores_BT: NDArray[np.float32], annotated_BT: NDArray[np.bool_], known_BT: NDArray[np.bool_]
) -> dict[str, float | list[float]]:
    """`roc_auc` and `precision_at_<share>` of token scores, each with the `…_interval` of resampled groups of blocks.

    Args:
        scores_BT: token scores.
        annotated_BT, known_BT: as in `attribution_metrics`.

    Returns:
        Beside these, `annotated_share`.
    """
    known, group = _counted(known_BT)
    scores, positive = scores_BT[known], annotated_BT[known]
    metrics: dict[str, float | list[float]] = {"annotated_share": float(positive.mean())}
    metrics["roc_auc"] = roc_auc(scores, positive)
    metrics |= {f"precision_at_{share}": precision_at(scores, positive, share) for share in SHARES}
    metrics["roc_auc_interval"], at_shares = ranking_intervals(scores, positive, group, SHARES, groups=GROUPS)
    metrics |= {f"precision_at_{share}_interval": at for share, at in zip(SHARES, at_shares, strict=True)}
    return metrics


def document_quality(split: Split, scores_BT: NDArray[np.float32]) -> dict[str, Any]:
    """`documents`, the ROC AUC of the sum of a document's scores against its label (toxic or another), and its
    `documents_interval` over resampled documents."""
    document = split.documents_of(np.arange(scores_BT.size))
    sums = np.bincount(document, weights=np.ravel(scores_BT), minlength=len(split.documents)).astype(np.float64)
    toxic = split.documents["label"] == LABELS[TOXIC]
    return {"documents": roc_auc(sums, toxic), "documents_interval": roc_auc_interval(sums, toxic)}


def quality_difference(
    scores_BT: NDArray[np.float32],
    reference_BT: NDArray[np.float32],
    annotated_BT: NDArray[np.bool_],
    known_BT: NDArray[np.bool_],
) -> dict[str, list[float]]:
    """`roc_auc` and `precision_at_<share>` of token scores less those of others, with its interval over the same
    resampled groups of blocks: [difference, low, high] each.

    Args:
        scores_BT, reference_BT: token scores, and what they are compared with.
        annotated_BT, known_BT: as in `attribution_metrics`.
    """
    return difference_of(*(quality_draws(one, annotated_BT, known_BT) for one in (scores_BT, reference_BT)))


def quality_draws(
    scores_BT: NDArray[np.float32], annotated_BT: NDArray[np.bool_], known_BT: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """ROC AUC and precisions at `SHARES`, [1 + shares, 1 + R]: of all groups of blocks, and of each resample of them,
    which are the same for any scores."""
    known, group = _counted(known_BT)
    scores, positive = scores_BT[known], annotated_BT[known]
    values = [roc_auc(scores, positive), *(precision_at(scores, positive, share) for share in SHARES)]
    return np.column_stack([values, np.vstack(ranking_draws(scores, positive, group, SHARES, groups=GROUPS))])


def difference_of(draws: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, list[float]]:
    """`quality_difference`, from the `quality_draws` of both."""
    names = ["roc_auc", *(f"precision_at_{share}" for share in SHARES)]
    rows = zip(names, draws - reference, strict=True)
    return {name: [float(value), *percentiles(drawn)] for name, (value, *drawn) in rows}


def _counted(known_BT: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Known tokens that have a score, and the group of blocks that each of these is in."""
    known = known_BT.copy()
    known[:, 0] = False
    return known, np.broadcast_to((np.arange(len(known)) % GROUPS)[:, None], known.shape)[known]


def known_tokens(split: Split, source: int | None = None) -> NDArray[np.bool_]:
    """Tokens of which it is known whether they are toxic, [blocks, T]: not those of toxic documents without spans.

    With a source, annotated documents of others are left out too.
    """
    documents = split.documents
    known: NDArray[np.bool_] = documents["annotated"] | (documents["label"] != LABELS[TOXIC])
    if source is not None:
        known &= (documents["source"] == source) | (documents["label"] != LABELS[TOXIC])
    return known[split.documents_of(np.arange(len(split) * split.block_length))].reshape(split.shape)


def word_list_scores(
    split: Split, tokenizer: PreTrainedTokenizerFast, weights: dict[str, float]
) -> NDArray[np.float32]:
    """Score each token by the word it belongs to; words that the list does not know score 0.

    Returns:
        [blocks, T]; column 0 is 0.
    """
    texts = token_texts(tokenizer)
    scores = np.zeros(split.shape, dtype=np.float32)
    for row, ids in enumerate(split.tokens(slice(0, len(split)))):
        pieces = [texts[token] for token in ids]
        ends = np.cumsum([len(piece) for piece in pieces])
        for match in WORD.finditer("".join(pieces)):
            first = np.searchsorted(ends, match.start(), side="right")
            last = np.searchsorted(ends, match.end(), side="left")
            scores[row, first : last + 1] = weights.get(match.group().lower(), 0.0)
    scores[:, 0] = 0
    return scores
