"""Where token scores come from: influence, exact or by a student of some; or what a classifier or a probe finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ifguide.checks import argument
from ifguide.stages.amortised import FittedStudent, StudentScores
from ifguide.stages.classified import FittedProbe, JudgedTokens
from ifguide.stages.influence import Scores
from ifguide.stages.stage import Stage

if TYPE_CHECKING:
    from ifguide.stages.planner import Planner


def plan_scores(planner: Planner, contrast: bool) -> Stage:
    """The stage that scores all training tokens; no proxy is made for scores that are no influence.

    Args:
        planner: makes what the scores are made from.
        contrast: along both kinds of queries; otherwise along the toxic ones alone.
    """
    scorer = planner.part("scorer")
    if hasattr(scorer, "reads"):
        return plan_classified(planner, scorer, contrast)
    suffix = "" if contrast else ".toxic"
    exact: dict[str, Any] = {"directions": planner.directions(contrast), "scorer": scorer, **planner.chain}
    amortised = planner.part("student")
    if amortised is None:
        return planner.add(f"scores{suffix}", Scores, **exact)
    share = {"share": amortised.share, "share_seed": amortised.seed}
    shared = {"data": planner.data, "student": amortised.student}
    sample = planner.add(f"exact_scores{suffix}", Scores, **exact, **share)
    fitted = planner.add(f"student{suffix}", FittedStudent, exact=sample, floors=amortised.floors, **shared, **share)
    return planner.add(
        f"scores{suffix}", StudentScores, fitted=fitted, behaviours=list(planner.behaviours),
        shard_blocks=planner.part("influence").shard_blocks, **shared, **planner.placed,
    )  # fmt: skip


def refuse(planner: Planner, who: str, *groups: str) -> None:
    """Raise ValueError where a group is chosen that somebody's chain from queries to scores does not have."""
    for group in groups:
        if planner.part(group) is not None:
            raise ValueError(f"{group}: {who} goes without; choose {group}=none")


def plan_classified(planner: Planner, scorer: Any, contrast: bool) -> Stage:
    """Scores by a classifier of texts or by a probe.

    Raises:
        ValueError: what only influence can do is asked of them.
    """
    names, kind = list(planner.behaviours), type(scorer).__name__
    if len(names) > 1:
        raise ValueError(
            f"scorer: {kind} judges one behaviour, and there are {len(names)} ({', '.join(names)}); mask each in a run "
            "of its own, or choose a scorer of influence, as jvp"
        )
    if planner.part("student") is not None:
        raise ValueError(f"student: it learns exact scores of influence, {kind} has none; choose student=none")
    if not contrast:
        raise ValueError(f"filter.contrast=false: {kind} has no influence along g(toxic); choose a scorer of influence")
    if scorer.reads == "texts":
        judging = planner.classifier("scorer.classifier", "classifier.scorer")
        return planner.add("scores", JudgedTokens, data=planner.data, scorer=scorer, behaviours=names, **judging)
    with argument("labelled"):
        labelled = list(planner.part("labelled"))
    probe = planner.add(
        "token_probe", FittedProbe, {"probe": "scorer"}, data=planner.data, probe=scorer, labelled=labelled
    )
    return planner.add(
        "scores", StudentScores, {"student": "scorer"}, fitted=probe, data=planner.data, behaviours=names,
        student=scorer, shard_blocks=planner.part("influence").shard_blocks, **planner.placed,
    )  # fmt: skip
