"""What stages say of themselves: a line for people, and warnings of results that mislead.

Both are facts of the artifact, so they are said again when it is found; warnings are notes of the row, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifguide.evaluation.toxicity import TOXIC_FROM
from ifguide.workspace import Artifact

FINDING, WARNINGS = "finding", "warnings"
LEARNED = 0.9  # of a unigram model's loss, at most: a proxy above has learned hardly more than how often tokens occur
EXPLAINED = 0.1  # of the variance of exact scores of unseen blocks, at least
RELIABLE = 0.3  # correlation of halves, at least
MOST = 0.5  # of a mask, at most, in one document or in pieces of words
TELLS = 0.65  # ROC AUC of a judge, at least
BETWEEN = (0.35, 0.65)  # probabilities that are all here decide nothing
UNDECIDED = "gives every text a probability near one half"
SILENT = 0.5  # of the length that continuations had before policy gradients, at most
FEW_TOKENS = 20  # of a mask: too few to say where most of them are


def finding(line: str, *warnings: str | None) -> dict[str, Any]:
    """Facts of a stage: what it found, and what is wrong with it (None: nothing)."""
    return {FINDING: line, WARNINGS: [warning for warning in warnings if warning]}


def said(artifact: Artifact) -> tuple[str | None, list[str]]:
    """The finding and the warnings of an artifact."""
    facts = artifact.manifest.get("facts") or {}
    return facts.get(FINDING), list(facts.get(WARNINGS) or ())


def all_warnings(artifacts: Mapping[str, Artifact]) -> Iterator[str]:
    """Warnings of artifacts, each after the role that it is of; an artifact of several roles once."""
    seen: set[Any] = set()
    for role, artifact in artifacts.items():
        if artifact.path not in seen:
            seen.add(artifact.path)
            yield from (f"{role}: {warning}" for warning in said(artifact)[1])


def of_corpus(splits: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    train, test = splits["train"], splits["test"]
    return finding(
        f"{train['tokens']:,} tokens of {train['documents']:,} documents in {train['blocks']:,} training blocks; "
        f"{test['tokens']:,} tokens to test on"
    )


def of_share(share: float, largest: str | None) -> str | None:
    """Args: share of the parameters in decoder blocks that influence tracks; another one, where that is small."""
    if largest is None:
        return None
    return f"influence tracks {share:.0%} of the parameters in the decoder blocks: {largest} is of no linear layer"


def of_proxy(loss: float, unigram: float, *others: str | None) -> dict[str, Any]:
    """Args: mean losses on validation text, in nats per token; other warnings."""
    wrong = f"the proxy has learned hardly more than how often tokens occur (loss {loss:.2f}; {unigram:.2f} by counts)"
    return finding(
        f"the proxy's validation loss is {loss:.2f} nats per token, that of token counts {unigram:.2f}",
        f"{wrong}: its scores say little; train it longer or on more text" if loss > LEARNED * unigram else None,
        *others,
    )


def of_refinement(steps: int, residuals: Sequence[float], ratio: float | None) -> dict[str, Any]:
    """Args: steps of conjugate gradients; ‖g − (G + δI)v‖ / ‖g‖ before and after; vᵀ(G + δI)v / vᵀg before."""
    before = "" if ratio is None else f"; the curvature along the start is {ratio:.3g} × that of its factors"
    return finding(
        f"after {steps} steps the residual is {residuals[-1]:.2g} of the gradient, {residuals[0]:.2g} before{before}",
        None if residuals[-1] < residuals[0] else "conjugate gradients have not come nearer: use a larger damping",
    )


def of_direction(correlation: float | None, shared: int, queries: int) -> dict[str, Any]:
    """Args: correlation of scores by halves of the queries; continuations on both sides; queries."""
    both = f"{shared} continuations show the behaviour and do not: the two sets hardly differ there" if shared else None
    if correlation is None:
        few = "too few queries to tell scores from noise (a class has not two)"
        return finding(few, few, both)
    noisy = (
        f"scores by halves of the {queries} queries correlate only {correlation:.2f}: mostly noise; use more queries"
    )
    return finding(
        f"scores by halves of the {queries} queries correlate {correlation:.2f}",
        noisy if correlation < RELIABLE else None,
        both,
    )


def of_scores(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Args: of a scorer, which was compared with the reference form unless it is that."""
    if "self_check" not in facts:
        return {}
    error = max(facts["self_check"]["relative_error"])
    near = f"scores in {facts['dtype']} differ from those of the reference form by {error:.0e} of their size"
    if (found := facts.get("float32_check")) is None:
        return finding(f"{near} on a few blocks")
    return finding(
        f"{near} on a few blocks; bfloat16 and float32 correlate {found['correlation']:.5f} on {found['tokens']:,} "
        f"tokens, and a mask of the highest has a Jaccard index of {found['mask_jaccard']:.3f}"
    )


def of_student(held_out: Mapping[str, Any]) -> dict[str, Any]:
    """Args: agreement with exact scores of unseen blocks; of several behaviours, the worst explained one counts."""
    worst = min(range(len(held_out["student"])), key=lambda one: held_out["student"][one]["r2"])
    student, unigram, shuffled = (held_out[name][worst] for name in ("student", "unigram", "shuffled"))
    explains = f"explains {student['r2']:.0%} of the variance of exact scores of unseen blocks"
    return finding(
        f"the student {explains} (Spearman {student['spearman']:.2f}), means of token ids {unigram['r2']:.0%}, "
        f"a student of scores shuffled within documents {shuffled['r2']:.0%}",
        f"the student {explains}: its scores say little; use a larger student.share, or exact scores"
        if student["r2"] < EXPLAINED
        else None,
        f"the student {explains}, means of token ids {unigram['r2']:.0%}: it has learned no more than those"
        if student["r2"] <= unigram["r2"]
        else None,
    )


def of_mask(selected: int, tokens: int, shape: Mapping[str, float], short: Sequence[str]) -> dict[str, Any]:
    """Args: selected tokens, all tokens, `mask_shape`, and what the selection fell short of."""
    largest, fragments = shape["largest_document"], shape["fragments"]
    enough = selected >= FEW_TOKENS
    return finding(
        f"{selected:,} of {tokens:,} tokens ({selected / tokens:.2%}) in {shape['documents']:,} documents, at most "
        f"{largest:.0%} of them in one; {fragments:.0%} are pieces of words",
        *short,
        f"{largest:.0%} of the mask lies in one document" if enough and largest > MOST else None,
        f"{fragments:.0%} of the mask are pieces of words of which the rest is not selected: pool by word, or use "
        "more queries"
        if enough and fragments > MOST
        else None,
    )


def of_judge(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Args: of a classifier that was trained here; its facts on texts that it has not seen."""
    if "probabilities" not in facts:
        return {}
    low, _, high = facts["probabilities"]
    auc, error = facts["roc_auc"], facts.get("calibration_error")
    calibrated = "" if error is None else f", calibration error {error:.2f}"
    line = f"on texts that it has not seen: ROC AUC {auc:.2f}{calibrated}, probabilities {low:.2f}–{high:.2f}"
    return finding(
        f"{name}: {line}",
        f"{name} hardly tells the two classes apart (ROC AUC {auc:.2f})" if auc < TELLS else None,
        f"{name} {UNDECIDED}, {low:.2f}–{high:.2f}: it measures nothing" if is_undecided(low, high) else None,
    )


def of_judged(probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """Args: what a classifier says of generations."""
    low, high = float(probabilities.min()), float(probabilities.max())
    return finding(
        f"probabilities {low:.2f}–{high:.2f}, {(probabilities >= TOXIC_FROM).mean():.1%} from {TOXIC_FROM} up",
        f"the classifier {UNDECIDED}, {low:.2f}–{high:.2f}: it measures nothing" if is_undecided(low, high) else None,
    )


def of_policy(reward: Sequence[float], kl: Sequence[float], new_tokens: Sequence[float]) -> dict[str, Any]:
    """Args: at the beginning and at the end of policy gradients."""
    before, after = new_tokens
    return finding(
        f"reward {reward[0]:.3f} → {reward[1]:.3f}, KL {kl[1]:.2f} nats per continuation of {after:.1f} tokens",
        f"continuations had {before:.1f} tokens and have {after:.1f}: the reward may be for silence"
        if after < SILENT * before
        else None,
    )


def is_undecided(low: float, high: float) -> bool:
    """Whether probabilities all lie around one half."""
    return BETWEEN[0] < low <= high < BETWEEN[1]
