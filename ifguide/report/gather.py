"""Runs on disk → what a report says of each: its settings, its metrics and its values prompt by prompt.

A run is the folder that `run.py` writes: `.hydra/`, and then `metrics.json` with `artifacts.json`, or `failure.json`,
or neither. A folder inside it that holds both `.hydra/` and `metrics.json` is the reference it was compared with.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ifguide.evaluation.generation import GENERATIONS_FILE, load_generations
from ifguide.evaluation.task import measurement_names

# these decide where and how a run is recorded, or make it a repetition: never a row of its own
NOT_ROWS = ("seed", "paths", "logger", "stage", "compare_with", "report", "judge", "hydra")
TOKENS_FILE = "tokens.json"


@dataclass(frozen=True)
class PromptScores:
    """What a classifier said of every sampled continuation.

    Args:
        keys: (record, prompt) of each prompt, by which runs are paired.
        subsets: subset of each prompt.
        continuations: the sampled texts of each prompt.
        probabilities: category → [prompts, samples].
    """

    keys: Sequence[tuple[str, str]]
    subsets: Sequence[str]
    continuations: Sequence[Sequence[str]]
    probabilities: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Run:
    """One evaluated, failed or unfinished run.

    Args:
        place: its folder, or its address in W&B.
        overrides: setting → value, as on the command line.
        choices: group → option.
        config: the composed configuration, not resolved.
        metrics: `metrics[task][subset][metric]`; None where there are none.
        problem: why there are no metrics.
        artifacts: role → folder, those that are still there.
        written: when, to tell the newer of two.
        notes: what a reader must know of the row, as that its filter is the evaluator.
    """

    place: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] | None = None
    problem: str | None = None
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    written: float = 0.0
    notes: Sequence[str] = ()

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @property
    def method(self) -> str:
        return self.setting("method") or Path(self.place).name

    def setting(self, key: str) -> str | None:
        """The option of a group or the value of a setting, or None where this run has no such thing."""
        if key in self.choices:
            return plain(self.choices[key])
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return plain(self.overrides[key]) if key in self.overrides else None
            value = value[part]
        return plain(value)

    @property
    def tasks(self) -> dict[str, str]:
        """Task → the role of its generations; the first task's is not named."""
        first = next(iter(self.config.get("tasks") or {"toxicity": None}))
        prefix = "generations of "
        named = {role.removeprefix(prefix): role for role in self.artifacts if role.startswith(prefix)}
        return {first: "generations"} | named

    def prompt_scores(self, name: str) -> PromptScores | None:
        """Values of `metrics[name]` prompt by prompt, or None where the artifacts are gone."""
        judged = measurement_names(self.tasks, self.config.get("classifiers") or {"toxicity": None})
        generations = self.artifacts.get(self.tasks[judged[name][0]]) if name in judged else None
        if generations is None or "evaluation" not in self.artifacts:
            return None
        return load_prompt_scores(self.artifacts["evaluation"], generations, name)

    def page_documents(self) -> Mapping[str, Any] | None:
        """Scored training documents that the run left for the token page."""
        file = Path(self.place) / TOKENS_FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def plain(value: Any) -> str:
    """A setting as it is shown and compared: `1e-3` is `0.001`, `True` is `true`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    try:
        return f"{float(value):.12g}"
    except (TypeError, ValueError):
        return str(value)


@lru_cache(maxsize=64)
def load_prompt_scores(evaluation: Path, generations: Path, name: str) -> PromptScores | None:
    file, texts = evaluation / f"probabilities-{name}.npz", generations / GENERATIONS_FILE
    if not file.is_file() or not texts.is_file():
        return None
    with np.load(file) as archive:
        probabilities = {category: archive[category] for category in archive.files}
    rows = load_generations(texts)
    if any(len(values) != len(rows) for values in probabilities.values()):
        raise ValueError(f"{file} and {texts} are of different prompts: {len(rows)} prompts were continued")
    keys = list(zip(rows["record"], rows["prompt"], strict=True))
    return PromptScores(keys, list(rows["subset"]), list(rows["continuations"]), probabilities)


def gather(places: Sequence[str], *, workspace: Path | None = None) -> list[Run]:
    """All runs in these folders or globs, the reference that a run was compared with before it.

    Args:
        places: folders of runs, of sweeps, or any folder above them; globs are expanded.
        workspace: where artifacts are looked for that are not in the workspace their run names.

    Raises:
        ValueError: nothing is there, or what is there holds no run.
    """
    runs: list[Run] = []
    for place in places:
        found = sorted(glob.glob(str(place))) if glob.has_magic(str(place)) else [str(place)]
        folders = [folder for path in found for folder in run_folders(Path(path))]
        if not folders:
            missing = not found or not Path(found[0]).exists()
            why = "there is no such folder" if missing else "no run in it (a run's folder holds `.hydra`)"
            raise ValueError(f"report.runs={place}: {why}")
        for folder in folders:
            inside = [
                child for child in sorted(folder.iterdir()) if is_run(child) and (child / "metrics.json").exists()
            ]
            runs += [read_run(path, workspace) for path in (*inside, folder)]
    return [run for run in runs if run.config.get("stage") != "report"]


def is_run(folder: Path) -> bool:
    return (folder / ".hydra").is_dir()


def run_folders(folder: Path) -> Iterator[Path]:
    """Folders of runs at and under a folder, jobs of a sweep in the order of their numbers."""
    if is_run(folder):
        yield folder
    elif folder.is_dir():
        children = [child for child in folder.iterdir() if child.is_dir()]
        for child in sorted(children, key=lambda path: (not path.name.isdigit(), path.name.zfill(9))):
            yield from run_folders(child)


def read_run(folder: Path, workspace: Path | None = None) -> Run:
    config = read_yaml(folder / ".hydra" / "config.yaml", {})
    runtime = (read_yaml(folder / ".hydra" / "hydra.yaml", {}).get("hydra") or {}).get("runtime") or {}
    metrics, problem = None, None
    failure, measured, row = (folder / name for name in ("failure.json", "metrics.json", "row.json"))
    try:
        if measured.is_file():
            metrics = json.loads(measured.read_text(encoding="utf-8"))
        elif failure.is_file():
            problem = f"failed: {json.loads(failure.read_text(encoding='utf-8'))['message']}"
        elif config.get("stage", "evaluate") != "evaluate":
            problem = f"not evaluated (stage={config['stage']})"
        else:
            problem = "unfinished"
    except (json.JSONDecodeError, KeyError) as error:
        problem = f"failed: a damaged file in its folder ({error})"
    return Run(
        place=str(folder),
        overrides=dict(split_override(line) for line in read_yaml(folder / ".hydra" / "overrides.yaml", [])),
        choices={group: str(option) for group, option in (runtime.get("choices") or {}).items()},
        config=config,
        metrics=metrics,
        problem=problem,
        artifacts=find_artifacts(folder, config, Path(runtime.get("cwd", ".")), workspace),
        written=measured.stat().st_mtime if measured.is_file() else 0.0,
        notes=tuple(json.loads(row.read_text(encoding="utf-8"))["notes"]) if row.is_file() else (),
    )


def find_artifacts(folder: Path, config: Mapping[str, Any], cwd: Path, workspace: Path | None) -> dict[str, Path]:
    """Role → folder of those artifacts of a run that are in its own workspace, or in another one."""
    file = folder / "artifacts.json"
    if not file.is_file():
        return {}
    own = os.path.expandvars(str((config.get("paths") or {}).get("workspace", "workspace")))
    roots = [cwd / own, *([workspace] if workspace else [])]
    names = json.loads(file.read_text(encoding="utf-8"))
    places = {
        role: next((root / name for root in roots if (root / name).is_dir()), None) for role, name in names.items()
    }
    return {role: place for role, place in places.items() if place is not None}


def read_yaml(path: Path, default: Any) -> Any:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or default) if path.is_file() else default


def split_override(override: str) -> tuple[str, str]:
    """`+a.b=1` → (`a.b`, `1`)."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


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
        measured, notes = one_a_seed(name, [run for run in together if run.metrics is not None], left_out)
        problems = [run for run in together if run.metrics is None]
        notes += dict.fromkeys(note for run in measured for note in run.notes)
        groups.append(Group(name, settings, measured, problems, notes))
    return groups


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Settings that somebody overrode and in which the runs differ; where a run has no such setting, it agrees."""
    overridden = dict.fromkeys(key for run in runs for key in run.overrides if key.split(".")[0] not in NOT_ROWS)
    return [key for key in overridden if len({run.setting(key) for run in runs} - {None}) > 1]


def one_a_seed(name: str, runs: Sequence[Run], left_out: Sequence[str]) -> tuple[list[Run], list[str]]:
    """The newest run of each seed; equal ones, as the reference that every job was compared with, are one."""
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
