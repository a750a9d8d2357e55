"""What the runs of a report were made with: what they share, and what differs between rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ifguide.report.gather import Run, plain
from ifguide.report.rows import Comparison, Row

NOT_SHOWN = ("seed", "paths", "logger", "stage", "report", "judge", "clean", "plan", "hydra", "objective_metric")
NONE = "none: the same training on the whole corpus, with the plain loss and without any method"


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """What a reader must know first: model, corpus, who judges what, and what the rows are compared with."""
    runs = [run for row in comparison.measured for run in row.runs]
    task, wording = comparison.headline.task, comparison.wording
    pairs = [("behaviour", wording.behaviour)]
    pairs.append(("model", several(name_of(run, "model", "model.pretrained") for run in runs)))
    pairs.append(("corpus", several(run.choices.get("data", "") for run in runs)))
    classifiers = (run.choices.get(f"classifier@classifiers.{run.classifiers.get(task)}", "") for run in runs)
    pairs.append(("classifier", several(classifiers)))
    pairs.append(("samples", several(samples_of(run, task) for run in runs)))
    pairs.append(("seeds", ", ".join(map(str, sorted({run.seed for run in runs})))))
    if comparison.reference is not None:
        is_none = comparison.reference == "none" or comparison.reference.startswith("none,")
        pairs.append(("compared with", NONE if is_none else comparison.reference))
    return [(key, value) for key, value in pairs if value]


def several(values: Iterator[str] | Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(filter(None, values)))


def name_of(run: Run, group: str, pretrained: str) -> str:
    start = run.setting(pretrained)
    return run.choices.get(group, "") if start in (None, "null") else f"{start}, trained further"


def samples_of(run: Run, task: str) -> str:
    """Samples × prompts, with the prompts of each subset."""
    subsets: Mapping[str, Any] = (run.metrics or {}).get(task) or {}
    prompts = {subset: values.get("prompts") for subset, values in subsets.items()}
    samples = run.setting(f"tasks.{run.judged.get(task, task)}.samples")
    if not prompts.get("all"):
        return ""
    parts = [f"{count} {name}" for name, count in prompts.items() if name != "all" and count]
    return f"{samples or '?'} × {prompts['all']} prompts" + (f" ({', '.join(parts)})" if len(parts) > 1 else "")


def settings_values(comparison: Comparison, directory: Path) -> dict[str, Any]:
    """The settings in which rows differ, as a table; of each row its runs, and how a steered one is made again."""
    rows = [row for row in comparison.rows if row.runs]
    flat = [dict(flattened(row.runs[0])) for row in rows]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    differing = [key for key in keys if len({settings.get(key, "–") for settings in flat}) > 1]
    return {
        "names": [row.name for row in rows],
        "differing": [(key, [settings.get(key, "–") for settings in flat]) for key in differing],
        "shared": [(key, flat[0][key]) for key in keys if key not in differing],
        "rows": [row_values(row, directory) for row in rows],
    }


def flattened(run: Run) -> Iterator[tuple[str, str]]:
    """Options of groups, then single settings, without those that make no difference to a row."""
    options = {key for key in run.choices if not key.startswith("hydra/")}
    yield from ((key, run.choices[key]) for key in sorted(options) if key.split("/")[0] not in NOT_SHOWN)
    yield from leaves({key: value for key, value in run.config.items() if key not in NOT_SHOWN}, "")


def leaves(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, child in value.items():
            yield from leaves(child, f"{prefix}.{key}" if prefix else str(key))
    elif prefix and not prefix.endswith("_target_"):
        yield prefix, json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else plain(value)


def row_values(row: Row, directory: Path) -> dict[str, Any]:
    config = json.dumps(row.runs[0].config, indent=2, ensure_ascii=False, default=str)
    return {
        "name": row.name,
        "seed": row.runs[0].seed,
        "config": config,
        "runs": [run_values(run, directory) for run in row.runs],
        "recipe": recipe(row.runs[0]) if row.steered else None,
    }


def run_values(run: Run, directory: Path) -> dict[str, Any]:
    overrides = " ".join(f"{key}={value}" for key, value in run.overrides.items())
    artifacts = {role: path for role, path in run.artifacts.items() if not (run.steered and role == "model")}
    pairs = [("settings", overrides), *((f"artifact: {role}", path.name) for role, path in artifacts.items())]
    return {"seed": run.seed, "link": link_to(run.place, directory), "place": run.place, "pairs": pairs}


def recipe(run: Run) -> list[tuple[str, str]]:
    """What writes as a steered row does: the decoder's settings, and the folders of the models that it reads."""
    decoding = run.config.get("decoding")
    settings = decoding if isinstance(decoding, Mapping) else {}
    numbers = [f"{key}={plain(value)}" for key, value in settings.items() if isinstance(value, int | float)]
    name = str(settings.get("_target_", run.choices.get("decoding", ""))).rpartition(".")[2]
    folders = [(role, str(path)) for role, path in run.artifacts.items() if role == "model" or "auxiliary." in role]
    known = [(role.removeprefix("auxiliary.").replace("model", "steered model"), path) for role, path in folders]
    return [("decoder", f"{name}({', '.join(numbers)})"), *known]


def link_to(place: str, directory: Path) -> str | None:
    """Where a run's folder is, as seen from the page; of W&B its address; None for anything else."""
    if place.startswith("https://"):
        return place
    if "://" in place or not Path(place).is_dir():
        return None
    return quote(os.path.relpath(place, directory)) + "/"
