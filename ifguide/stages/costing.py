"""What the stages of a plan would cost that are not built: each, together, and whether it fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifguide.checks import check_number
from ifguide.corpus.blocks import SPLITS
from ifguide.cost import CorpusSize, Work
from ifguide.cost.corpus import estimated_size, found_size
from ifguide.cost.devices import Device, free_disk
from ifguide.stages.data import Data
from ifguide.stages.stage import Plan, Stage
from ifguide.workspace import MANIFEST, Workspace, describe_environment, read_json

SEED, CORPUS, SHAPE = "seed", "data", "model"  # of settings, of inputs, of the settings of a model


@dataclass(frozen=True)
class StageCost:
    """What one stage would cost.

    Attributes:
        work: what it says itself; None: it does not say.
        seconds: on the wall; None: not known.
        basis: what the seconds come from: `measured` here, `recorded` of an artifact, or the name of a device; or why
            nothing is known.
    """

    work: Work | None
    seconds: float | None
    basis: str


@dataclass(frozen=True)
class PlanCost:
    """What a plan would cost.

    Attributes:
        stages: role → cost, of the stages that are to be built.
        corpus: its size.
        devices: how many are held, all of the time.
        device: what computes.
        memory: bytes of one device.
        disk: bytes that are free.
    """

    stages: Mapping[str, StageCost]
    corpus: CorpusSize
    devices: int
    device: str
    memory: float
    disk: float

    @property
    def seconds(self) -> float:
        return sum(one.seconds or 0.0 for one in self.stages.values())

    @property
    def flops(self) -> float:
        return sum(one.work.flops for one in self.stages.values() if one.work)

    @property
    def peak(self) -> float:
        return max((one.work.memory.peak for one in self.stages.values() if one.work), default=0.0)

    @property
    def stored(self) -> float:
        return sum(one.work.disk for one in self.stages.values() if one.work)

    @property
    def most_stored(self) -> float:
        """With what is there only while one of them is built."""
        most, kept = 0.0, 0.0
        for one in self.stages.values():
            if one.work:
                most, kept = max(most, kept + one.work.disk + one.work.scratch), kept + one.work.disk
        return most


def cost_of(
    plan: Plan, workspace: Workspace, device: Device, *, devices: int = 1, tokens: float | None = None, is_here: bool
) -> PlanCost:
    """What the stages of a plan would cost that are not in the workspace.

    Args:
        plan: of the run.
        workspace: where stages are found.
        device: what computes.
        devices: how many of these; stages that all processes build take as much less time.
        tokens: of the corpus, where it is not built and nothing else says it.
        is_here: the device is that of this machine, so that seconds recorded here hold.

    Raises:
        ValueError: nothing says how large the corpus is.
    """
    if tokens is not None:
        check_number("plan.tokens", tokens, least=1)
    corpus = size_of_corpus(plan, workspace, tokens)
    found: dict[str, StageCost] = {}
    for stage in plan.stages:
        if stage.is_in(workspace):
            continue
        work, why = work_of(stage, corpus)
        recorded = recorded_seconds(workspace, stage, devices) if is_here else None
        role = plan.role_of(stage)
        if recorded is not None or work is None:
            found[role] = StageCost(work, recorded, "recorded" if recorded is not None else why)
            continue
        computed = sum(device.seconds(one) for one in work.passes)
        seconds = computed / (devices if stage.collective else 1) + work.seconds * device.pace
        found[role] = StageCost(work, seconds, device.name if work.passes else "by constants")
    return PlanCost(found, corpus, devices, device.name, device.memory, free_disk(workspace.root))


def work_of(stage: Stage, corpus: CorpusSize) -> tuple[Work | None, str]:
    """What a stage says of its work; and why it does not, as where no one reaches the configuration of its model."""
    try:
        return stage.work(corpus), "not known"
    except (ValueError, OSError) as error:
        return None, f"not known: {str(error).splitlines()[0]}"


def size_of_corpus(plan: Plan, workspace: Workspace, tokens: float | None) -> CorpusSize:
    """Counted where it is there; of no tokens where no stage reads one."""
    data = next(iter(plan.named(Data).values()), None)
    if data is None:
        return CorpusSize(dict.fromkeys(SPLITS, 0), 0, 1, 1, 1.0, "not read")
    return found_size(workspace.folder(data.recipe)) if data.is_in(workspace) else estimated_size(data.corpus, tokens)


def recorded_seconds(workspace: Workspace, stage: Stage, devices: int = 1) -> float | None:
    """Seconds of the latest artifact like that of a stage, made on hardware as it is here by as many processes.

    What was resumed is left out: its seconds are those of the last session.
    """
    here = describe_environment()["hardware"], devices
    for file in sorted(workspace.root.glob(f"{stage.name}-*/{MANIFEST}"), key=lambda file: -file.stat().st_mtime):
        try:
            manifest = read_json(file)
            there = tuple(manifest["environment"].get(key) for key in ("hardware", "processes"))
            if there == here and not manifest["resumed"] and is_like(stage, manifest, workspace):
                return float(manifest["seconds"])
        except (OSError, LookupError, TypeError, ValueError, AttributeError):
            continue
    return None


def is_like(stage: Stage, manifest: Mapping[str, Any], workspace: Workspace) -> bool:
    """Whether an artifact is of the same settings but for seeds, of one corpus, and of models of one shape."""
    found, ours = (without_seeds(settings) for settings in (manifest["settings"], stage.recipe.content["settings"]))
    inputs = manifest["inputs"]
    if manifest["version"] != stage.version or found != ours or inputs.keys() != stage.inputs.keys():
        return False
    for name, one in stage.inputs.items():
        if inputs[name] == one.fingerprint:
            continue
        other = read_json(workspace.root / f"{one.name}-{inputs[name]}" / MANIFEST)
        if name == CORPUS or other["settings"].get(SHAPE) != one.recipe.content["settings"].get(SHAPE):
            return False
    return True


def without_seeds(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: without_seeds(child) for key, child in value.items() if key != SEED}
    return [without_seeds(child) for child in value] if isinstance(value, list) else value


def advice(plan: Plan, cost: PlanCost, workspace: Path) -> list[tuple[str, str]]:
    """Whether memory and disk are enough, and which setting would make it so, as it is typed: (what, line)."""
    lines = []
    tight = {role: one.work for role, one in cost.stages.items() if one.work and one.work.memory.peak > cost.memory}
    for role, work in tight.items():
        rows, setting = work.memory.fitting(cost.memory), work.memory.setting
        if rows is None:
            least = work.memory.peak if setting is None else work.memory.fixed + work.memory.each
            need = f"{size(least)} of {size(cost.memory)}{' for a single row' if setting else ''}"
            lines.append(("memory", f"{role} needs {need}: use a smaller model"))
        else:
            line = f"{role} needs {size(work.memory.peak)} of {size(cost.memory)}"
            lines.append(("memory", f"{line}; {typed(plan, role, setting)}={rows} would do"))
    if not tight:
        lines.append(("memory", f"fits: {size(cost.peak)} of {size(cost.memory)} on each device"))
    if cost.most_stored <= cost.disk:
        lines.append(("disk", f"fits: {size(cost.most_stored)} of {size(cost.disk)} that are free"))
    else:
        disks = {role: one.work.disk for role, one in cost.stages.items() if one.work}
        largest = max(disks, key=lambda role: disks[role])
        line = f"does not fit: {size(cost.most_stored)} are needed, of {largest} the most, {size(cost.disk)} are free"
        way_out = f"choose another paths.workspace than {workspace}, or fewer documents (limit of the sources of data)"
        lines.append(("disk", f"{line}; {way_out}"))
    return lines


def typed(plan: Plan, role: str, setting: str | None) -> str:
    """A setting as it is typed, where the stage names it by one of its fields."""
    field, _, rest = (setting or "").partition(".")
    known = plan.typed.get(role, {}).get(field)
    return f"{known}.{rest}" if known and rest else known or str(setting)


def cells(one: StageCost) -> Sequence[str]:
    """FLOPs, seconds, memory, disk, and what the seconds come from."""
    work = one.work
    known = (amount(work.flops), size(work.memory.peak), size(work.disk)) if work else ("?", "?", "?")
    basis = one.basis if work is None or work.lacking is None else f"{one.basis}, without {work.lacking}"
    return known[0], "?" if one.seconds is None else duration(one.seconds), known[1], known[2], basis


def amount(flops: float) -> str:
    if not flops:
        return "-"
    for unit, value in (("E", 1e18), ("P", 1e15), ("T", 1e12)):
        if flops >= value:
            return f"{flops / value:.3g} {unit}FLOP"
    return f"{flops / 1e9:.3g} GFLOP"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(value: float) -> str:
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if value >= scale:
            return f"{value / scale:.1f} {unit}"
    return f"{value / 1024:.0f} KiB"
