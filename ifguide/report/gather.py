"""Runs on disk → what a report says of each: its settings, its metrics and its values prompt by prompt.

A run is the folder that `run.py` writes: `.hydra/`, `run.json`, and `metrics.json` or `failure.json`. A run that is
not finished lacks some of them; a file that cannot be read is the run's problem, and is said in its row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from ifguide.decoding.generation import GENERATIONS_FILE, load_generations, numbered
from ifguide.evaluation.task import METRICS_FILE, with_nan
from ifguide.report.plain_yaml import WithoutAliases
from ifguide.workspace import as_override, find_paths, open_archive, read_json

RUN_FILE, FAILURE_FILE = "run.json", "failure.json"
TOKENS_FILE = "tokens-{behaviour}.json"
AUXILIARY = "auxiliary."  # begins the role of a model that the decoder reads
NO_RESULTS = ("report", "plan", "clean")  # stages after which there is nothing to report
NO_RUNTIME: tuple[Path, dict[str, str]] = (Path("."), {})
T = TypeVar("T")


@dataclass(frozen=True)
class PromptScores:
    """What a classifier said of every sampled continuation.

    Args:
        keys, records, subsets: of each prompt; by the first runs are paired, see `numbered`.
        continuations: the sampled texts of each prompt.
        probabilities: category → [prompts, samples].
    """

    keys: Sequence[tuple[str, int]]
    records: Sequence[str]
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
        generations: task → role of the artifact of its generations.
        judged: name in the metrics → the task it is of.
        classifiers: name in the metrics → the classifier that judged it.
        labels: name in the metrics → its `behaviour`, and what is `positive` and `negative`, where the run says so.
        behaviours: that training tokens were scored for.
        steered: its decoder reads other models, so that its model alone is not what was measured.
        name: of the row, where the choices do not say the method.
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
    generations: Mapping[str, str] = field(default_factory=dict)
    judged: Mapping[str, str] = field(default_factory=dict)
    classifiers: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    behaviours: Sequence[str] = ()
    steered: bool = False
    name: str = ""

    @property
    def seed(self) -> int:
        seed = self.config.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @property
    def method(self) -> str:
        return self.setting("method") or self.name or Path(self.place).name

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

    def typed(self, role: str) -> str:
        """The folder of a role's artifact as a value on the command line, whatever its name holds."""
        return as_override(self.artifacts[role])

    def generations_of(self, task: str) -> Path | None:
        """The artifact of a task's generations, or None where it is gone."""
        return self.artifacts.get(self.generations.get(task, ""))

    def prompt_scores(self, name: str) -> PromptScores | None:
        """Values of `metrics[name]` prompt by prompt, or None where the artifacts are gone."""
        generations = self.generations_of(self.judged.get(name, ""))
        if generations is None or "evaluation" not in self.artifacts:
            return None
        return load_prompt_scores(self.artifacts["evaluation"], generations, name)

    def token_pages(self) -> dict[str, Mapping[str, Any]]:
        """Behaviour → the scored training documents that the run left for its token page.

        Raises:
            ValueError: a page's file is damaged.
        """
        files = {one: Path(self.place) / TOKENS_FILE.format(behaviour=one) for one in self.behaviours}
        return {behaviour: read_json(file) for behaviour, file in files.items() if file.is_file()}


def plain(value: Any) -> str:
    """A setting as it is shown and compared: `1e-3` is `0.001`, `True` is `true`."""
    if value is None or isinstance(value, int):  # as True and False are
        return json.dumps(value)
    try:
        return f"{float(value):.12g}"
    except (TypeError, ValueError):
        return str(value)


@lru_cache(maxsize=64)
def load_prompt_scores(evaluation: Path, generations: Path, name: str) -> PromptScores | None:
    file, texts = evaluation / f"probabilities-{name}.npz", generations / GENERATIONS_FILE
    if not file.is_file() or not texts.is_file():
        return None
    probabilities = open_archive(file)
    rows = load_generations(texts)
    if any(len(values) != len(rows) for values in probabilities.values()):
        raise ValueError(f"{file} and {texts} are of different prompts: {len(rows)} prompts were continued")
    records, subsets, texts_PS = (list(rows[name]) for name in ("record", "subset", "continuations"))
    return PromptScores(numbered(rows["prompt"]), records, subsets, texts_PS, probabilities)


def gather(places: Sequence[str], *, workspace: Path | None = None) -> list[Run]:
    """All runs in these folders or globs.

    Args:
        places: folders of runs, of sweeps, or any folder above them; or globs, but a folder that exists is that folder.
        workspace: where artifacts are looked for that are neither where their run left them nor in its workspace.

    Raises:
        ValueError: nothing is there, or what is there holds no run.
    """
    runs: list[Run] = []
    for place in places:
        found = [Path(place)] if Path(place).exists() else find_paths(Path(place))
        folders = [folder for path in found for folder in run_folders(path)]
        if not folders:
            why = "there is no such folder" if not found else "no run in it (a run's folder holds `.hydra`)"
            raise ValueError(f"report.runs={place}: {why}")
        runs += [read_run(folder, workspace) for folder in folders]
    return [run for run in runs if run.config.get("stage") not in NO_RESULTS]


def run_folders(folder: Path) -> Iterator[Path]:
    """Folders of runs at and under a folder, jobs of a sweep in the order of their numbers."""
    if (folder / ".hydra").is_dir() or (folder / RUN_FILE).is_file():
        yield folder
    elif folder.is_dir():
        children = [child for child in folder.iterdir() if child.is_dir()]
        for child in sorted(children, key=lambda path: (not path.name.isdigit(), path.name.zfill(9))):
            yield from run_folders(child)


def read_run(folder: Path, workspace: Path | None = None) -> Run:
    """What a run's folder says; a file in it that is damaged is the run's problem."""
    damaged: list[str] = []

    def read(name: str, parse: Callable[[Any], T], default: T) -> T:
        if not (folder / name).exists():
            return default
        try:
            text = (folder / name).read_text(encoding="utf-8")
            return parse(json.loads(text) if name.endswith(".json") else yaml.load(text, WithoutAliases))
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, yaml.YAMLError) as error:
            damaged.append(f"{name} ({' '.join(str(error).split())})")
            return default

    config: dict[str, Any] = read(".hydra/config.yaml", checked_mapping, {})
    cwd, choices = read(".hydra/hydra.yaml", parse_runtime, NO_RUNTIME)
    overrides: dict[str, str] = read(".hydra/overrides.yaml", parse_overrides, {})
    facts: dict[str, Any] = read(RUN_FILE, parse_facts, {})
    metrics = read(METRICS_FILE, checked_metrics, None)
    failure = read(FAILURE_FILE, lambda content: str(content["message"]), None)
    stage = facts.get("stage") or config.get("stage", "evaluate")
    problem = None
    if damaged:
        metrics, problem = None, f"failed: a damaged file in its folder: {'; '.join(damaged)}"
    elif metrics is None:
        without = "unfinished" if stage == "evaluate" else f"not evaluated (stage={stage})"
        problem = without if failure is None else f"failed: {failure}"
    paths = config.get("paths")
    workspace_of = str(paths.get("workspace") if isinstance(paths, dict) else "workspace")
    own = cwd / Path(os.path.expandvars(workspace_of)).expanduser()
    return Run(
        place=str(folder),
        overrides=overrides,
        choices=choices,
        config={**config, "stage": stage, **({"seed": facts["seed"]} if "seed" in facts else {})},
        metrics=metrics,
        problem=problem,
        artifacts=find_artifacts(facts.get("artifacts", {}), [own, *([workspace] if workspace else [])]),
        written=0.0 if metrics is None else (folder / METRICS_FILE).stat().st_mtime,
        notes=facts.get("notes", ()),
        generations=facts.get("generations", {}),
        judged=facts.get("judged", {}),
        classifiers=facts.get("classifiers", {}),
        labels=facts.get("labels", {}),
        steered=any(role.startswith(AUXILIARY) for role in facts.get("artifacts", {})),
        behaviours=facts.get("behaviours", ()),
        name=str(facts.get("name", "")),
    )


def find_artifacts(places: Mapping[str, str], workspaces: Sequence[Path]) -> dict[str, Path]:
    """Role → folder of those artifacts that are where their run left them, or in one of these workspaces."""
    found = {}
    for role, place in places.items():
        candidates = [Path(place), *(workspace / Path(place).name for workspace in workspaces)]
        existing = next((one for one in candidates if os.path.isdir(one)), None)  # False of a name that is none
        if existing is not None:
            found[role] = existing
    return found


def checked_mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise TypeError(f"it holds no mapping but {type(content).__name__}")
    return content


def parse_runtime(content: Any) -> tuple[Path, dict[str, str]]:
    """Where the run was started, and the option of each group."""
    runtime = checked_mapping(checked_mapping(content)["hydra"])["runtime"]
    choices = {group: str(option) for group, option in (runtime.get("choices") or {}).items()}
    return Path(runtime.get("cwd", ".")), choices


def parse_overrides(content: Any) -> dict[str, str]:
    return dict(split_override(line) for line in content or ())


def parse_facts(content: Any) -> dict[str, Any]:
    """`run.json`, of the types that it should have."""
    facts: dict[str, Any] = {key: content[key] for key in ("name", "stage", "seed") if key in checked_mapping(content)}
    for key in ("artifacts", "generations"):
        facts[key] = {str(name): str(value) for name, value in content.get(key, {}).items()}
    judged = content.get("judged", {})
    facts["judged"] = {str(name): str(value["task"]) for name, value in judged.items()}
    facts["classifiers"] = {str(name): str(value.get("classifier", "")) for name, value in judged.items()}
    facts["labels"] = {
        str(task): {key: str(words[key]) for key in ("behaviour", "positive", "negative")}
        for task, words in content.get("labels", {}).items()
    }
    for key in ("notes", "behaviours"):
        facts[key] = tuple(map(str, content.get(key, ())))
    return facts


def checked_metrics(content: Any) -> dict[str, Any]:
    """`metrics.json`: task → subset → metric → value, of which `…_interval` are two numbers."""
    for task, subsets in checked_mapping(content).items():
        for subset, values in checked_mapping(subsets or {}).items():
            for name, value in checked_mapping(values or {}).items():
                ends = value if name.endswith("_interval") and value is not None else (0, 0)
                if len([float(0 if end is None else end) for end in ends]) != 2:
                    raise ValueError(f"{task}.{subset}.{name} = {value!r}: an interval is two numbers, [low, high]")
    return with_nan(content)


def split_override(override: str) -> tuple[str, str]:
    """`+a.b=1` → (`a.b`, `1`)."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value
