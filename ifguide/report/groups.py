"""Runs → groups that are equal but for the seed: each is a row of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ifguide.report.gather import Run

# these decide where and how a run is recorded, or make it a repetition: never a row of its own
NOT_ROWS = ("seed", "paths", "logger", "stage", "report", "judge", "clean", "hydra")


@dataclass(frozen=True)
class Group:
    """The runs of one row: equal but for the seed.

    Args:
        name: the method, and the settings in which rows differ.
        settings: what is in the name; the method first.
        runs: with metrics, one a seed, in the order of seeds.
        problems: without metrics.
        notes: what a reader must know of how the row came about.
    """

    name: str
    settings: Mapping[str, str]
    runs: Sequence[Run]
    problems: Sequence[Run]
    notes: Sequence[str] = ()


def group_runs(runs: Sequence[Run], by: Sequence[str] | None = None) -> list[Group]:
    """One group for each combination of the settings in which the runs differ, in the order of their first run.

    Args:
        runs: see `gather`.
        by: the settings that make a row; None: all that were overridden in a run and differ between runs, apart from
            the seed and from where results go.

    Raises:
        ValueError: runs of one row and seed differ in a setting that `by` leaves out, or nobody has such a setting.
    """
    differing = differing_settings(runs)
    keys = list(differing if by is None else by)
    for key in keys:
        if all(run.setting(key) is None for run in runs):
            raise ValueError(f"report.by: no run has a setting `{key}`; they differ in: {', '.join(differing)}")
    named = ["method", *(key for key in keys if key != "method")] if by is None or "method" in by else keys
    members: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        place = tuple(run.method if key == "method" else run.setting(key) for key in named)
        members.setdefault(place, []).append(run)
    groups = []
    for values, together in members.items():
        settings = {key: value for key, value in zip(named, values, strict=True) if value is not None}
        name = ", ".join(value if key == "method" else f"{key}={value}" for key, value in settings.items())
        left_out = [key for key in differing if key not in named]
        measured, notes = latest_per_seed(name, [run for run in together if run.metrics is not None], left_out)
        problems = [run for run in together if run.metrics is None]
        notes += dict.fromkeys(note for run in measured for note in run.notes)
        groups.append(Group(name, settings, measured, problems, notes))
    return groups


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Settings that somebody overrode and in which the runs differ; where a run has no such setting, it agrees."""
    overridden = dict.fromkeys(key for run in runs for key in run.overrides if key.split(".")[0] not in NOT_ROWS)
    return [key for key in overridden if len({run.setting(key) for run in runs} - {None}) > 1]


def latest_per_seed(name: str, runs: Sequence[Run], left_out: Sequence[str]) -> tuple[list[Run], list[str]]:
    """The newest run of each seed, and notes; runs of equal metrics are one.

    Raises:
        ValueError: runs of one seed differ in a setting that was left out.
    """
    kept: dict[int, Run] = {}
    notes: list[str] = []
    for run in sorted(runs, key=lambda run: (run.seed, run.written)):
        older = kept.get(run.seed)
        if older is not None and older.metrics != run.metrics:
            differ = [key for key in left_out if older.setting(key) != run.setting(key)]
            if differ:
                raise ValueError(
                    f"row `{name}` has several runs of seed {run.seed}, which differ in {', '.join(differ)}: "
                    "add these to report.by"
                )
            notes.append(f"several runs of seed {run.seed}: the newest is shown")
        kept[run.seed] = run
    return list(kept.values()), list(dict.fromkeys(notes))
