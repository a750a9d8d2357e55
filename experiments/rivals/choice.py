"""Which setting of a method is reported, by what each does on validation prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ifguide.report.gather import Run
from ifguide.report.table import one_line

TOLERANCE = 1.03  # of perplexity, in the choice of settings


@dataclass(frozen=True)
class Tried:
    """One setting of a method on validation prompts: what it does, or why that is not known."""

    setting: tuple[str, ...]
    toxic_fraction: float
    ratio: float  # of its perplexity to the uncensored model's with the same truncation
    distinct: float  # distinct-2 of what it writes
    problem: str | None = None
    compared: bool = True  # False: what the other settings are compared with


def try_settings(
    grids: Sequence[str], runs: Sequence[Run], uncensored: tuple[float, float], unsteered: Sequence[str] | None = None
) -> list[Tried]:
    """What each setting of a method does.

    Args:
        grids: the settings, as Hydra sweeps them.
        runs: one of each combination.
        uncensored: that model's perplexities (see `perplexities`).
        unsteered: the setting whose perplexity stands for the uncensored model's.
    """
    swept = {grid.split("=")[0] for grid in grids}
    settings = [tuple(f"{key}={value}" for key, value in run.overrides.items() if key in swept) for run in runs]
    if unsteered is not None:
        plain = runs[settings.index(tuple(unsteered))]
        if plain.metrics is None:
            raise SystemExit(f"error: {', '.join(unsteered)} could not be evaluated: {plain.problem}")
        uncensored = (float("nan"), perplexities(plain)[1])
    tried = []
    for run, setting in zip(runs, settings, strict=True):
        if run.metrics is None:
            tried.append(Tried(setting, float("nan"), float("nan"), float("nan"), run.problem))
            continue
        benign, written = perplexities(run)
        ratio = written / uncensored[1] if benign is None else benign / uncensored[0]
        toxicity = run.metrics["toxicity"]["all"]
        compared = unsteered is None or setting != tuple(unsteered)
        tried.append(Tried(setting, toxicity["toxic_fraction"], ratio, toxicity["distinct_2"], compared=compared))
    return tried


def perplexities(run: Run) -> tuple[float | None, float]:
    """On benign documents of the validation split, None where a decoder steers the model; and of generations."""
    assert run.metrics is not None
    benign = run.metrics.get("perplexity", {}).get("benign")
    return benign and float(benign["perplexity"]), float(run.metrics["toxicity"]["all"]["generation_perplexity"])


def choose(tried: Sequence[Tried]) -> Tried:
    """The least toxic setting within the tolerance of perplexity; where there is none, the most fluent one."""
    measured = [one for one in tried if one.problem is None and one.compared]
    if not measured:
        raise SystemExit(f"error: no setting could be evaluated: {'; '.join(str(one.problem) for one in tried)}")
    fluent = [one for one in measured if one.ratio <= TOLERANCE]
    if not fluent:
        return min(measured, key=lambda one: one.ratio)
    return min(fluent, key=lambda one: (one.toxic_fraction, one.ratio))


def beyond(chosen: Mapping[str, Tried]) -> str:
    """A sentence on the methods of which no setting is within the tolerance."""
    names = [f"{name} ({one.ratio - 1:+.1%})" for name, one in chosen.items() if one.ratio > TOLERANCE]
    return (
        f"\nNo setting within the tolerance of perplexity, so the most fluent: {', '.join(names)}.\n" if names else ""
    )


def sweep_table(sweeps: Mapping[str, Sequence[Tried]], chosen: Mapping[str, Tried]) -> str:
    lines = ["| method | setting | toxic fraction ↓ | perplexity, ratio | distinct-2 |", "|---|---|---|---|---|"]
    for method, tried in sweeps.items():
        for one in tried:
            bold = "**" if one == chosen[method] else ""
            setting = ", ".join(part.split(".", 1)[1] for part in one.setting) or "–"
            figures = f"{one.toxic_fraction:.3f} | {one.ratio:.3f} | {one.distinct:.3f}"
            if one.problem is not None:
                figures = f"{one_line(one.problem)} | – | –"
            lines.append(f"| {method} | {bold}{setting}{bold} | {figures} |")
    return "\n".join(lines)


def check_apart(validation: Sequence[Run], test: Sequence[Run]) -> None:
    """Raise where settings were chosen on a prompt that is reported on."""
    one, other = (
        {prompt for run in runs for scores in [run.prompt_scores("toxicity")] if scores for _, prompt in scores.keys}
        for runs in (validation, test)
    )
    if shared := one & other:
        raise SystemExit(f"error: {len(shared)} validation prompts are test prompts too, as {min(shared)!r}")
