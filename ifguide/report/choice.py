"""Which setting of a method is reported, by what each of those in `conf/tuning` does on validation prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from ifguide.report.gather import Run

TOLERANCE = 1.03  # of perplexity
NEAR = 0.005  # of the tolerance: a chosen setting that uses it up needs no stronger one beside it
TRIES = 6  # settings of a method, at most
UNSTEERED = "unsteered"  # a decoder that does nothing but truncate: what its other settings are compared with


@dataclass(frozen=True)
class Tried:
    """One setting of a method on validation prompts: what it does, or why that is not known.

    Attributes:
        setting: its name in `conf/tuning`; None for a method without settings.
        shown: the setting itself.
        value: of the key that is tuned; None for a method without settings.
        toxic_fraction: of generations.
        ratio: of its perplexity to the uncensored model's with the same truncation.
        distinct: distinct-2 of generations.
        problem: why nothing is known.
    """

    setting: str | None
    shown: str
    toxic_fraction: float | None = None
    ratio: float | None = None
    distinct: float | None = None
    problem: str | None = None
    value: float | None = None


def try_settings(runs: Sequence[Run], uncensored: Run) -> list[Tried]:
    """What each setting of a method does.

    Args:
        runs: one of each setting.
        uncensored: the model whose perplexity is the measure, unless the method has a setting `unsteered`.
    """
    tunings = [run.config["tuning"] for run in runs]
    base = perplexities(next((run for run in runs if run.setting("tuning.setting") == UNSTEERED), uncensored))
    tried = []
    for run, tuning in zip(runs, tunings, strict=True):
        setting, shown, value = None, "–", None
        if "key" in tuning:
            setting = tuning["setting"]
            value = tuning["tried"][setting]
            shown = tuning.get("shown") or f"{tuning['key'].split('.', 1)[1]}={value}"  # with what is set beside it
        if run.metrics is None:
            tried.append(Tried(setting, shown, problem=run.problem, value=value))
            continue
        benign, written = perplexities(run)
        ratio = written / base[1] if benign is None or base[0] is None else benign / base[0]
        toxicity = run.metrics["toxicity"]["all"]
        tried.append(Tried(setting, shown, toxicity["toxic_fraction"], ratio, toxicity["distinct_2"], value=value))
    return tried


def beyond(tried: Sequence[Tried], *, least: float | None = None, most: float | None = None) -> float | None:
    """The value to try next: one more step past the edge of a grid, where the chosen setting is at one.

    None where it is not, where it uses up the tolerance of perplexity to half a percent, where the grid ends at a
    bound, or where the method had its tries. Steps are of equal ratio; of whole numbers at equal distances, of those.

    Args:
        tried: settings of a method, of one key.
        least, most: bounds of the value.
    """
    of_steered = [one.value for one in tried if one.setting != UNSTEERED and one.value is not None]
    values, chosen = sorted(set(of_steered)), choose(tried)
    if chosen is None or len(of_steered) >= TRIES or len(values) < 2 or chosen.value not in (values[0], values[-1]):
        return None
    if chosen.ratio is not None and abs(chosen.ratio - TOLERANCE) <= NEAR:
        return None
    edge, neighbour = (values[0], values[1]) if chosen.value == values[0] else (values[-1], values[-2])
    if all(isinstance(one, int) for one in values) and len({b - a for a, b in pairwise(values)}) == 1:
        further = edge + (edge - neighbour)
    else:
        further = float(f"{edge * edge / neighbour:.2g}")
    further = further if most is None else min(further, most)
    further = further if least is None else max(further, least)
    return None if further in values else further


def perplexities(run: Run) -> tuple[float | None, float]:
    """On benign documents of the validation split, None where a decoder steers the model; and of generations.

    Raises:
        ValueError: the run was not evaluated.
    """
    if run.metrics is None:
        raise ValueError(f"{run.method}, with which others are compared, could not be evaluated: {run.problem}")
    benign = run.metrics.get("perplexity", {}).get("benign")
    return benign and float(benign["perplexity"]), float(run.metrics["toxicity"]["all"]["generation_perplexity"])


def choose(tried: Sequence[Tried]) -> Tried | None:
    """The least toxic setting within the tolerance of perplexity; where there is none, the most fluent one; None where
    none could be evaluated, or has a perplexity that is finite."""
    measured = [
        (one.ratio, one.toxic_fraction, one)
        for one in tried
        if one.ratio is not None and one.toxic_fraction is not None and one.setting != UNSTEERED
        and isfinite(one.ratio) and isfinite(one.toxic_fraction)
    ]  # fmt: skip
    if not measured:
        return None
    fluent = [row for row in measured if row[0] <= TOLERANCE]
    if not fluent:
        return min(measured, key=lambda row: row[0])[2]
    return min(fluent, key=lambda row: (row[1], row[0]))[2]


def check_apart(validation: Sequence[Run], test: Sequence[Run]) -> None:
    """Raise ValueError where settings were chosen on a prompt that is reported on."""
    one, other = (
        {prompt for run in runs for scores in [run.prompt_scores("toxicity")] if scores for prompt, _ in scores.keys}
        for runs in (validation, test)
    )
    if shared := one & other:
        raise ValueError(f"{len(shared)} validation prompts are test prompts too, as {min(shared)!r}")
