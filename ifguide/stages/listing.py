"""`stage=plan` and `stage=clean`: what a run would build or find, and what no run needs any more."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifguide.report.gather import RUN_FILE
from ifguide.stages.costing import PlanCost, advice, amount, cells, duration, size
from ifguide.stages.stage import Plan
from ifguide.workspace import MANIFEST, ArtifactError, Workspace, read_json, read_manifest

CONFIG = Path(".hydra") / "config.yaml"
ARTIFACT = re.compile(r"[\w.]+-[0-9a-f]{16}\b")
MIB = 2**20
UNSET = object()
Settings = Mapping[str, Any]


def plan_table(plan: Plan, workspace: Workspace, given: Settings, usual: Settings, cost: PlanCost | None = None) -> str:
    """A line for each stage, with its settings that are not the defaults, as they are typed, on lines below.

    Args:
        plan: of the run.
        workspace: where stages are found.
        given, usual: all settings of the run, and of a run without any overrides: key → value (`flattened`).
        cost: of the stages that are to be built; None: not shown.
    """
    lines = []
    for stage in plan.stages:
        role = plan.role_of(stage)
        line = (
            f"{role:24} {'found' if stage.is_in(workspace) else 'to build':9} {stage.name + '-' + stage.fingerprint:34}"
        )
        if cost is not None and role in cost.stages:
            line += "{:>11} {:>7} {:>10} {:>10}  {}".format(*cells(cost.stages[role]))
        lines.append(line.rstrip())
        typed = plan.typed[role]
        keys = [typed.get(one, one) for one in stage.settings]
        lines += [
            f"{'':24} {key}={value}"
            for key, value in given.items()
            if any(f"{key}.".startswith(f"{of_stage}.") for of_stage in keys) and usual.get(key, UNSET) != value
        ]
    if cost is not None:
        lines += totals(plan, cost, workspace)
    return "\n".join(lines)


def totals(plan: Plan, cost: PlanCost, workspace: Workspace) -> list[str]:
    """What all stages cost that are to be built, and whether they fit."""
    if not cost.stages:
        return ["all is found: nothing is built"]
    tokens = f"{cost.corpus.tokens():,} tokens of {cost.corpus.documents:,} documents, {cost.corpus.source}"
    everything = (amount(cost.flops), duration(cost.seconds), size(cost.peak), size(cost.stored))
    unknown = [role for role, one in cost.stages.items() if one.work is None or one.work.lacking]
    held = f"{cost.devices} × {cost.device}, {cost.seconds * cost.devices / 3600:.3g} device-hours"
    return [
        f"{f'{len(cost.stages)} to build':69}" + "{:>11} {:>7} {:>10} {:>10}  {}".format(*everything, held),
        f"{'corpus':24} {tokens}",
        *([f"{'not all is counted of':24} {', '.join(unknown)}"] if unknown else []),
        *(f"{what:24} {line}" for what, line in advice(plan, cost, workspace.root)),
    ]


def flattened(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{a: {b: 1}}` → `a.b`, 1."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from flattened(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


@dataclass(frozen=True)
class Unused:
    """An artifact that no given run refers to.

    Attributes:
        path: its folder.
        size: bytes on disk.
    """

    path: Path
    size: int


def unused_artifacts(workspace: Path, runs: Sequence[Path]) -> list[Unused]:
    """Artifacts of a workspace that are neither an artifact of one of some runs, nor made into one, nor named in its
    settings.

    Args:
        workspace: the folder.
        runs: folders of runs, or any folders above them.

    Raises:
        ValueError: there is no run in one of the folders, or a damaged one: then nothing is known to be needed.
    """
    wanted: set[str] = set()
    for folder in runs:
        files = sorted(folder.rglob(RUN_FILE))
        if not files:
            raise ValueError(f"clean.runs: no run in {folder} (a run's folder holds {RUN_FILE})")
        for file in files:
            try:
                artifacts = read_json(file)["artifacts"]
                wanted |= {Path(path).name for path in artifacts.values()} | named_in(file.parent / CONFIG)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"clean.runs: {file} is damaged ({error}), so nothing tells what its run needs; restore it, or "
                    "remove the run's folder"
                ) from error
    folders = {path.parent.name: path.parent for path in workspace.glob(f"*/{MANIFEST}")}
    by_fingerprint = {name.rpartition("-")[2]: name for name in folders}
    pending = [name for name in wanted if name in folders]
    while pending:
        for fingerprint in inputs_of(folders[pending.pop()]):
            name = by_fingerprint.get(fingerprint)
            if name is not None and name not in wanted:
                wanted.add(name)
                pending.append(name)
    return [Unused(path, size_of(path)) for name, path in sorted(folders.items()) if name not in wanted]


def named_in(config: Path) -> set[str]:
    """Artifacts that a run's settings may name, as in `model.pretrained=workspace/model-…`."""
    try:
        return set(ARTIFACT.findall(config.read_text(encoding="utf-8", errors="replace")))
    except FileNotFoundError:
        return set()


def inputs_of(folder: Path) -> list[str]:
    try:
        return list(read_manifest(folder)["inputs"].values())
    except (ArtifactError, KeyError):
        return []


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def clean(workspace: Path, runs: Sequence[Path], *, confirm: bool) -> str:
    """List what no run needs, and remove it where that is confirmed; returns the list."""
    unused = unused_artifacts(workspace, runs)
    lines = [f"{one.size / MIB:10.1f} MiB  {one.path}" for one in unused]
    total = sum(one.size for one in unused) / MIB
    for one in unused if confirm else ():
        shutil.rmtree(one.path)
    done = "removed" if confirm else "that clean.confirm=true removes"
    return "\n".join([*lines, f"{total:10.1f} MiB in {len(unused)} artifacts {done}"])
