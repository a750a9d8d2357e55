"""What benchmarks share: options, random models, medians of interleaved runs, memory of fresh processes, tables.

Large packages are imported where they are used: the memory of a process without them is measured too.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

VOCABULARY = 50304


def read_options(**defaults: str) -> dict[str, str]:
    """`name=value` on the command line, over their defaults."""
    given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if unknown := given.keys() - defaults.keys():
        sys.exit(f"error: {', '.join(sorted(unknown))}; known: {', '.join(defaults)}")
    return defaults | given


def run_stage(script: str, name: str, *overrides: str) -> tuple[Any, Callable[[str], Any]]:
    """A run up to a stage with the overrides of the command line, and what makes the parts of its configuration."""
    from ifguide.report.experiment import Experiment
    from ifguide.stages.configuration import make, saved

    experiment = Experiment(Path(script).absolute(), sys.argv[1:])
    run = experiment.run(f"{Path(script).stem}/{name}", "method=ifguide", "trainer.progress=false", *overrides)
    configuration = saved(Path(run.place))
    return run, lambda key: make(configuration, key)


def model_settings(name: str, **changes: Any) -> Any:
    """What `conf/model` has under a name, some settings changed; a vocabulary of 50,304 where it has none."""
    from omegaconf import OmegaConf

    from ifguide.models import ModelSettings

    given: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[2] / "conf" / "model" / f"{name}.yaml"))
    del given["_target_"]
    vocabulary = {"vocab_size": given["settings"]["vocab_size"] or VOCABULARY}
    return ModelSettings(**given | {"settings": given["settings"] | vocabulary | changes})


def random_model(name: str, *, dtype: Any, device: str, **changes: Any) -> Any:
    settings = model_settings(name, **changes)
    return settings.build(settings.settings["vocab_size"], None).eval().to(device, dtype)


def seconds(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    call()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock() - start


def interleaved(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median of what each call returns, all of them in turn."""
    rounds = [{name: call() for name, call in calls.items()} for _ in range(repeats)]
    return {name: statistics.median(one[name] for one in rounds) for name in calls}


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def memory(key: str, device: str = "cpu") -> float:
    """MiB of this process: `VmRSS`, what it holds now, or `VmHWM`, the most that it held."""
    if device == "cuda":
        import torch

        return {"VmRSS": torch.cuda.memory_allocated, "VmHWM": torch.cuda.max_memory_allocated}[key]() / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def table(rows: Sequence[Mapping[str, Any]], formats: Mapping[str, str] | None = None) -> str:
    """Markdown; what a row lacks, or is not a number, is a dash."""
    keys = list(dict.fromkeys(key for row in rows for key in row))

    def cell(key: str, value: Any) -> str:
        form = (formats or {}).get(key, ".4g" if isinstance(value, float) else "")
        return "–" if value is None or value != value else format(value, form)

    lines = [f"| {' | '.join(cell(key, row.get(key)) for key in keys)} |" for row in rows]
    return "\n".join([f"| {' | '.join(keys)} |", "|---" * len(keys) + "|", *lines])
