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


def read_options(**defaults: str) -> dict[str, str]:
    """`name=value` on the command line, over their defaults."""
    given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if unknown := given.keys() - defaults.keys():
        sys.exit(f"error: {', '.join(sorted(unknown))}; known: {', '.join(defaults)}")
    return defaults | given


def run_stage(script: str, name: str, *overrides: str) -> tuple[Any, Callable[[str], Any]]:
    """A run up to a stage with the overrides of the command line, and what makes the parts of its configuration."""
    from omegaconf import OmegaConf

    from ifguide.report.experiment import Experiment
    from ifguide.stages.configuration import make

    experiment = Experiment(Path(script).absolute(), sys.argv[1:])
    run = experiment.run(f"{Path(script).stem}/{name}", "method=ifguide", "trainer.progress=false", *overrides)
    configuration = OmegaConf.load(Path(run.place) / ".hydra" / "config.yaml")
    return run, lambda key: make(configuration, key)  # type: ignore[arg-type]


def random_model(vocabulary: int, *, width: int, layers: int, heads: int, context: int, dtype: Any, device: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=context,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype).eval().to(device)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
