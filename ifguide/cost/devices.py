"""How fast a pass is: on this machine by trying it, on a named one by its data sheet and a stated share of it."""

import os
import re
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel

from ifguide.cost.shape import ModelShape
from ifguide.cost.work import Pass
from ifguide.hardware import AUTO, BFLOAT16, FLOAT32, computes_bfloat16
from ifguide.workspace import nearest_folder

TRIED = 8e9  # FLOPs of a batch that is tried, at most, on a CPU: a fraction of a second of one core
TRIED_ON_GPU = 2e13
# of words that are counted, where constants of stages were read off: one core of an AMD EPYC with AVX2
SECONDS_OF_WORDS, TRIALS = 0.0084, 9
REPEATS, ENOUGH = 3, 0.8  # times that a batch is tried, unless they took so many seconds
GB = 10**9


class Device(Protocol):
    """What computes."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def memory(self) -> float:
        """Of one device, in bytes."""
        ...

    @property
    def pace(self) -> float:
        """Seconds on its host of what takes one where constants were read off."""
        ...

    def seconds(self, one: Pass) -> float:
        """What a pass takes on one device."""
        ...


@dataclass(frozen=True)
class NamedDevice:
    """A device that is not here.

    Attributes:
        name: of the device.
        peak: dtype → dense FLOP/s of its data sheet.
        bandwidth: bytes a second.
        memory: bytes.
        share: of the peak, and of the bandwidth, that is reached.
        pace: of its host, see `Device`; not known.
    """

    name: str
    peak: dict[str, float]
    bandwidth: float
    memory: float
    share: float = 0.4
    pace: float = 1.0

    def seconds(self, one: Pass) -> float:
        """The longer of its arithmetic and of reading the weights as often as it must."""
        dtype = BFLOAT16 if one.dtype == AUTO else one.dtype  # all of them compute it
        size = {FLOAT32: 4, BFLOAT16: 2}[dtype]
        reads = one.kind.weight_reads(one.length) * one.count * one.model.parameters * size
        return max(one.flops / self.peak[dtype], reads / self.bandwidth) / self.share


# Peaks without sparsity, SXM versions. float32 is that of ordinary cores: torch takes no TF32 unless told to.
# NVIDIA A100 80GB data sheet (2021), H100 data sheet (2023), H200 data sheet (2024).
DEVICES = {
    "a100": NamedDevice("a100", {"float32": 19.5e12, "bfloat16": 312e12}, 2039e9, 80 * GB),
    "h100": NamedDevice("h100", {"float32": 67e12, "bfloat16": 989e12}, 3350e9, 80 * GB),
    "h200": NamedDevice("h200", {"float32": 67e12, "bfloat16": 989e12}, 4800e9, 141 * GB),
}


def named_device(name: str, share: float) -> NamedDevice:
    """One of `DEVICES`.

    Raises:
        ValueError: none is called so, or a share that is none.
    """
    if name not in DEVICES:
        raise ValueError(f"plan.device={name}: known: {', '.join(DEVICES)}; null measures this machine")
    if not 0 < share <= 1:
        raise ValueError(f"plan.share={share}: a share of the peak in (0, 1]")
    return replace(DEVICES[name], share=share)


@dataclass
class ThisMachine:
    """The device here, which tries each kind of pass once on random tokens, on a model with the same widths.

    Attributes:
        device: of torch.
        clock: in seconds.
    """

    device: torch.device
    clock: Callable[[], float] = time.perf_counter
    _rates: dict[tuple[object, ...], float] = field(default_factory=dict)
    _models: dict[tuple[object, ...], tuple[PreTrainedModel, ModelShape]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "measured"

    @cached_property
    def pace(self) -> float:
        return min(_seconds_of_words(self.clock) for _ in range(TRIALS)) / SECONDS_OF_WORDS

    @property
    def memory(self) -> float:
        if self.device.type == "cuda":
            return float(torch.cuda.get_device_properties(self.device).total_memory)
        return memory_here()

    def seconds(self, one: Pass) -> float:
        key = (one.kind.name, id(one.model), one.rows, one.length, one.dtype)
        if key not in self._rates:
            self._rates[key] = self.rate(one)
        return one.flops / self._rates[key]

    def rate(self, one: Pass) -> float:
        """FLOP/s of a pass: of a batch that is small enough, of fewer decoder blocks if one sequence is not."""
        limit = TRIED_ON_GPU if self.device.type == "cuda" else TRIED
        least = getattr(one.kind, "samples", 1)  # of a prompt
        rows, length, layers = one.rows, one.length, one.model.layers
        shape = one.model
        while one.kind.flops(shape, rows, length) > limit and rows > least:
            rows = max(least, rows // 2)
        while one.kind.flops(shape, rows, length) > limit and layers > 1:
            layers = max(1, layers // 4)
            shape = one.model.smaller(layers)
        while one.kind.flops(shape, rows, length) > limit and length > 16:
            length //= 2
        key = (id(one.model), layers, getattr(one.kind, "scorer", None) is not None)  # a scorer takes its model over
        if key not in self._models:
            self._models[key] = (shape.model().to(self.device).eval(), shape)  # type: ignore[arg-type]
        model, shape = self._models[key]
        with self.precision(one.dtype):
            return one.kind.flops(shape, rows, length) / self.time(lambda: one.kind.run(model, rows, length))

    def time(self, run: Callable[[], None]) -> float:
        """Median seconds of a few runs behind one that is not counted, or of that alone where it is slow."""
        found: list[float] = []
        for _ in range(1 + REPEATS):
            start = self.clock()
            run()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            found.append(self.clock() - start)
            if sum(found) > ENOUGH and len(found) > 1:
                break
        return statistics.median(found[1:])

    def precision(self, dtype: str) -> AbstractContextManager[object]:
        rounds = dtype == BFLOAT16 or (dtype == AUTO and computes_bfloat16(self.device))
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if rounds else nullcontext()


def _seconds_of_words(clock: Callable[[], float]) -> float:
    """Of work like that on texts, which no device computes."""
    text = " ".join(f"word{number % 997} and so on," for number in range(4000))
    start = clock()
    Counter(match[0].lower() for match in re.finditer(r"\w+|[^\w\s]", text)).most_common()
    return clock() - start


def memory_here() -> float:
    """Bytes of memory that this machine, or the group of processes that this one is of, may use."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")
    found = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    return min(total, float(found)) if found.isdigit() else total


def free_disk(folder: Path) -> float:
    """Bytes that are free where a folder is, or will be."""
    return float(shutil.disk_usage(nearest_folder(folder)).free)
