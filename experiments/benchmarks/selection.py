"""Does selection keep to 10 minutes and 3 GB for a billion tokens, and does it equal the in-memory algorithm?

python experiments/benchmarks/selection.py [tokens=1000000000] [compare=20000000] [seed=0]
"""

import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shared import apart, memory, read_options, table

from ifguide.influence.selection import Algorithm1

LENGTH = 2048
POOL, ROWS = 1 << 24, 1 << 11
PAPER = Algorithm1()


def generate(folder: Path, tokens: int, seed: int) -> None:
    """Write the scores of whole blocks, and where documents of random lengths start."""
    generator = np.random.default_rng(seed)
    pool = generator.standard_t(3, POOL).astype(np.float32)
    blocks = tokens // LENGTH
    toxic = generator.random(blocks) < 0.03
    scale = generator.lognormal(0, 0.3, blocks).astype(np.float32)
    scores = np.lib.format.open_memmap(folder / "scores.npy", mode="w+", dtype=np.float32, shape=(blocks, LENGTH))
    for first in range(0, blocks, ROWS):
        rows = slice(first, min(first + ROWS, blocks))
        size = (rows.stop - first) * LENGTH
        begin = int(generator.integers(POOL - size + 1))
        draws = pool[begin : begin + size].reshape(-1, LENGTH)
        scores[rows] = (draws + np.float32(0.5) * toxic[rows, None]) * scale[rows, None]
        scores[rows, 0] = 0
    scores.flush()
    lengths = 1 + generator.lognormal(6, 1, blocks * LENGTH // 300 + 1).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    np.save(folder / "starts.npy", starts[starts < blocks * LENGTH])


def select_in_memory(scores_BT: NDArray[np.float32], document_starts: NDArray[np.int64] | None) -> NDArray[np.uint8]:
    """Algorithm 1 with the paper's settings on whole arrays, as packed bits."""
    blocks, length = scores_BT.shape
    existing = scores_BT[:, 1:].reshape(-1)
    rank = math.ceil(PAPER.quantile * existing.size) - 1
    above = scores_BT > np.partition(existing, rank)[rank]
    above[:, 0] = False
    starts = np.arange(blocks) * length if document_starts is None else document_starts
    ends = np.append(starts[1:], scores_BT.size)
    unit = np.repeat(np.arange(len(starts), dtype=np.int32), ends - starts).reshape(scores_BT.shape)

    count = np.add.reduceat(above.reshape(-1), starts, dtype=np.float64)
    total = np.add.reduceat(np.where(above, scores_BT, 0).reshape(-1), starts, dtype=np.float64)
    if document_starts is not None:
        shrunk = ends - starts + np.median(ends - starts)
        count, total = count / shrunk, total / shrunk
    count, total = ((value - value.min()) / (value.max() - value.min()) for value in (count, total))
    both = count + total
    merit = np.divide(2 * count * total, both, out=np.zeros_like(both), where=both > 0)
    order = np.argsort(-merit, kind="stable")

    same = unit[:, 1:] == unit[:, :-1]
    candidates = above.copy()
    candidates[:, :-1] |= above[:, 1:] & same
    candidates[:, 1:] |= above[:, :-1] & same
    candidates[:, 0] = False

    wanted = int(PAPER.limit * scores_BT.size)
    per_unit = np.add.reduceat(candidates.reshape(-1), starts, dtype=np.int64)[order]
    whole = int(np.searchsorted(np.cumsum(per_unit), wanted, side="right"))
    mask = candidates & np.isin(np.arange(len(starts)), order[:whole])[unit]
    missing = wanted - int(per_unit[:whole].sum())
    for row, column in np.argwhere(above & (unit == order[whole])) if whole < len(order) else ():
        for neighbour in (column, column - 1, column + 1):
            inside = 0 < neighbour < length and unit[row, neighbour] == order[whole]
            if missing and inside and not mask[row, neighbour]:
                mask[row, neighbour] = True
                missing -= 1
    return np.packbits(mask, axis=1)


def measure(folder: Path, unit: str, streamed: bool) -> dict[str, float]:
    """Select once and leave the mask in the folder; seconds, and gigabytes at the peak and of imports."""
    imports, begin = memory("VmHWM") * 2**20 / 1e9, time.perf_counter()
    starts = np.load(folder / "starts.npy") if unit == "document" else None
    scores = np.load(folder / "scores.npy", mmap_mode="r" if streamed else None)
    if streamed:
        Algorithm1(unit=unit)(scores, starts).mask.save(folder / "mask.npy")
    else:
        np.save(folder / "expected.npy", select_in_memory(scores, starts))
    return {"seconds": time.perf_counter() - begin, "peak GB": memory("VmHWM") * 2**20 / 1e9, "of it imports": imports}


def run(folder: Path, tokens: int, seed: int, *, compare: bool) -> dict[tuple[str, str], dict[str, Any]]:
    """Measure both units on scores of one size; (unit, how) → measurements."""
    apart(generate, folder, tokens, seed)
    ways, repeats = (("in memory", "from disk"), 3) if compare else (("from disk",), 1)
    results, counted = {}, tokens // LENGTH * LENGTH
    for unit in ("block", "document"):
        runs = [{how: apart(measure, folder, unit, how == "from disk") for how in ways} for _ in range(repeats)]
        for how in ways:
            medians: dict[str, Any] = {name: statistics.median(one[how][name] for one in runs) for name in runs[0][how]}
            results[unit, how] = {"tokens": counted, "unit": unit, "scores": how, **medians}
        if compare:
            masks = (np.load(folder / f"{name}.npy") for name in ("mask", "expected"))
            results[unit, "from disk"]["identical"] = bool(np.array_equal(*masks))
    return results


def main() -> None:
    tokens, compare, seed = map(int, read_options(tokens="1000000000", compare="20000000", seed="0").values())
    if min(tokens, compare) < LENGTH:
        sys.exit(f"error: tokens={tokens}, compare={compare}: at least one block of {LENGTH} is needed")
    with tempfile.TemporaryDirectory() as name:
        folder, needed = Path(name), 4.3 * max(tokens, compare)
        if (free := shutil.disk_usage(folder).free) < needed:
            sys.exit(f"{folder.parent} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} are needed; set TMPDIR")
        beside = run(folder, compare, seed, compare=True)
        full = run(folder, tokens, seed, compare=False)
    print(table([*beside.values(), *full.values()], {"tokens": ",", "seconds": ".1f"}))
    disk, plain, (block, document) = beside["block", "from disk"], beside["block", "in memory"], full.values()
    figures = {
        "seconds": block["seconds"], "peak_memory_gb": block["peak GB"], "document_seconds": document["seconds"],
        "document_peak_memory_gb": document["peak GB"], "imports_memory_gb": block["of it imports"],
        "in_memory_ratio": plain["seconds"] / disk["seconds"],
        "in_memory_memory_ratio": plain["peak GB"] / disk["peak GB"],
    }  # fmt: skip
    identical = all(one["identical"] for (_, how), one in beside.items() if how == "from disk")
    rounded = {key: round(value, 3) for key, value in figures.items()}
    print(json.dumps({"tokens": block["tokens"], **rounded, "identical": identical}))
    sys.exit(0 if identical else 1)


if __name__ == "__main__":
    main()
