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
    ratio: float  # of its perplexity to the uncensored model's
    distinct: float  # distinct-2 of what it writes
    problem: str | None = None


def try_settings(grids: Sequence[str], runs: Sequence[Run], uncensored: tuple[float, float]) -> list[Tried]:
    """What each setting of a method does; `uncensored` are that model's perplexities (see `perplexities`)."""
    swept = {grid.split("=")[0] for grid in grids}
    tried = []
    for run in runs:
        setting = tuple(f"{key}={value}" for key, value in run.overrides.items() if key in swept)
        if run.metrics is None:
            tried.append(Tried(setting, float("nan"), float("nan"), float("nan"), run.problem))
            continue
        benign, written = perplexities(run)
        ratio = written / uncensored[1] if benign is None else benign / uncensored[0]
        toxicity = run.metrics["toxicity"]["all"]
        tried.append(Tried(setting, toxicity["toxic_fraction"], ratio, toxicity["distinct_2"]))
    return tried


def perplexities(run: Run) -> tuple[float | None, float]:
    """On benign documents of the validation split, None where a decoder steers the model; and of generations."""
    assert run.metrics is not None
    benign = run.metrics.get("perplexity", {}).get("benign")
    return benign and float(benign["perplexity"]), float(run.metrics["toxicity"]["all"]["generation_perplexity"])


def choose(tried: Sequence[Tried]) -> Tried:
    """The least toxic setting within the tolerance of perplexity; where there is none, the most fluent one."""
    measured = [one for one in tried if one.problem is None]
    if not measured:
        raise SystemExit(f"error: no setting could be evaluated: {'; '.join(str(one.problem) for one in tried)}")
    fluent = [one for one in measured if one.ratio <= TOLERANCE]
    if not fluent:
        return min(measured, key=lambda one: one.ratio)
    return min(fluent, key=lambda one: (one.toxic_fraction, one.ratio))


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
