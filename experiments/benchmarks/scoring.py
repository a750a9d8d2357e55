"""How fast and how large is scoring, beside kronfluence's own per-token scores?

    python experiments/benchmarks/scoring.py [repeats=3] [cases=256x4096,256x50304,2048x4096,2048x50304] [timed=all]
        [device=cuda]

Same model (GPT-NeoX, random weights: 6 layers of 128 in float32 on CPUs, the shape of Pythia-160M in bfloat16 on a
GPU), blocks, tracked layers, direction and dtype, one process, runs interleaved, medians. kronfluence runs with
aggregated queries, per-token scores and SDPA attention; every scorer gets its best batch size from the same short
sweep. A run on one batch is subtracted from every time, so that query gradients and set-up do not count. Peak memory
is that of a fresh process above what it holds with the model loaded, at the scorer's own batch and at the largest,
which is the same for all. `reference` is `torch.func.jvp` of the unchanged model, timed with `timed=all` only, as
`positional` is, and finite differences of a direction restricted to the upper layers. FLOP/s count the arithmetic
that a scorer cannot do without. Agreement is measured against `reference` on the same blocks; on trained models every
run's manifest says it of finite differences. Last, several directions in one pass beside as many passes.
"""

import copy
import json
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from kronfluence import Analyzer, FactorArguments, ScoreArguments, prepare_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ifguide.influence.curvature import _Blocks, _LanguageModelingTask
from ifguide.influence.scorers import JVP, FiniteDifference, Positional
from ifguide.models import tracked_layers, tracked_parameters
from ifguide.objectives.language_modeling import token_losses

OPTIONS = dict(argument.split("=", 1) for argument in sys.argv[1:])
DEVICE = OPTIONS.get("device", "cpu")
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
WIDTH, LAYERS, HEADS = (768, 12, 12) if DEVICE == "cuda" else (128, 6, 4)
SCORERS = {
    **({} if DTYPE == torch.bfloat16 else {"finite_difference": FiniteDifference()}),
    "jvp": JVP(),
    "positional": Positional(),
    "reference": JVP(form="reference"),
}
RESTRICTED = (
    {"finite_difference, last 2 blocks": 2} if "finite_difference" in SCORERS else {}
)  # timed with timed=all; lower blocks are computed once
TIMED = ("kronfluence", "finite_difference", "jvp")
BATCH_TOKENS = (16384, 65536) if DEVICE == "cuda" else (2048, 4096, 8192)
DIRECTIONS = 4
SECONDS = 2.5  # of one measured run, about


def build(length: int, vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, max_position_embeddings=length,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=DTYPE).eval().to(DEVICE)


def draw_blocks(count: int, length: int, vocabulary: int) -> Tensor:
    """Token ids with the frequencies of Zipf's law."""
    weights = 1.0 / torch.arange(1, vocabulary + 1)
    generator = torch.Generator().manual_seed(0)
    return torch.multinomial(weights, count * length, replacement=True, generator=generator).view(count, length)


class Kronfluence:
    """kronfluence's `compute_pairwise_scores` along the gradient of one query."""

    def __init__(self, model: PreTrainedModel, query_BT: Tensor, folder: str) -> None:
        self.query, self.calls = query_BT, 0
        task = _LanguageModelingTask(list(tracked_layers(model)))
        self.analyzer = Analyzer(
            "benchmark", prepare_model(copy.deepcopy(model), task), task, cpu=DEVICE == "cpu", log_level=logging.ERROR,
            disable_tqdm=True, output_dir=folder,
        )  # fmt: skip
        identity = FactorArguments(strategy="identity")
        self.analyzer.fit_all_factors("fit", _Blocks(query_BT.numpy()), per_device_batch_size=1, factor_args=identity)

    def __call__(self, blocks_BT: Tensor, batch: int) -> Tensor:
        self.calls += 1  # it returns what it has under a name, whatever is asked
        self.analyzer.compute_pairwise_scores(
            str(self.calls), "fit", query_dataset=_Blocks(self.query.numpy()), train_dataset=_Blocks(blocks_BT.numpy()),
            per_device_query_batch_size=1, per_device_train_batch_size=batch,
            score_args=ScoreArguments(compute_per_token_scores=True, aggregate_query_gradients=True),
        )  # fmt: skip
        return self.analyzer.load_pairwise_scores(str(self.calls))["all_modules"][0].float()


def query_direction(model: PreTrainedModel, query_BT: Tensor) -> dict[str, Tensor]:
    parameters = tracked_parameters(model)
    query_BT = query_BT.to(DEVICE)
    loss = token_losses(model(query_BT).logits, query_BT).sum()
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def make_scorers(length: int, vocabulary: int, folder: str, names: list[str]) -> dict[str, Callable]:
    """Name → (blocks, batch) → scores."""
    model = build(length, vocabulary)
    query = draw_blocks(1, 32, vocabulary)
    direction = query_direction(model, query)
    sample = draw_blocks(max(1, 2048 // length), length, vocabulary).to(DEVICE)

    def in_batches(name: str) -> Callable:
        moved = direction
        if name in RESTRICTED:
            kept = tracked_layers(model, last_blocks=RESTRICTED[name])
            moved = {key: value for key, value in direction.items() if key.rpartition(".")[0] in kept}
        prepared = SCORERS[name.split(",")[0]].prepare(copy.deepcopy(model), [moved], sample)
        return lambda blocks, batch: torch.cat([prepared(part.to(DEVICE))[0].cpu() for part in blocks.split(batch)])

    return {name: Kronfluence(model, query, folder) if name == "kronfluence" else in_batches(name) for name in names}


def seconds(score: Callable, blocks: Tensor, batch: int) -> float:
    start = time.perf_counter()
    score(blocks, batch)
    return time.perf_counter() - start


def seconds_beyond_one_batch(score: Callable, blocks: Tensor, batch: int) -> float:
    """For everyone: what a run of one batch takes is not counted, nor are its blocks."""
    return seconds(score, blocks, batch) - seconds(score, blocks[:batch], batch)


def flops_per_token(name: str, length: int, vocabulary: int) -> float:
    linear, attention, head = 2 * 12 * WIDTH**2 * LAYERS, 2 * length * WIDTH * LAYERS, 2 * vocabulary * WIDTH
    passes = {"finite_difference": (2, 2), "jvp": (3, 3), "reference": (3, 3)}  # of linear layers and of attention
    linears, attentions = passes.get(name.split(",")[0], (3, 3.5))
    if name in RESTRICTED:  # all blocks once, the upper ones once more
        linears = attentions = 1 + RESTRICTED[name] / LAYERS
    return linears * linear + attentions * attention + 2 * head


def measure_speed(length: int, vocabulary: int, repeats: int, every: bool) -> dict[str, dict[str, float]]:
    names = ["kronfluence", *SCORERS, *(RESTRICTED if every else ())]
    with tempfile.TemporaryDirectory() as folder:
        scorers = make_scorers(length, vocabulary, folder, names)
        sizes = sorted({max(1, tokens // length) for tokens in BATCH_TOKENS})
        trial = draw_blocks(2 * sizes[-1], length, vocabulary)
        batch, rate = {}, {}
        for name, score in scorers.items():
            score(trial[: sizes[0]], sizes[0])
            if name not in TIMED and not every:
                batch[name] = sizes[0]
                continue
            rates = {}
            for size in sizes:
                blocks = trial[: max(2 * size, 4)]
                rates[size] = (len(blocks) - size) * length / seconds_beyond_one_batch(score, blocks, size)
            batch[name] = max(rates, key=lambda size: rates[size])
            rate[name] = rates[batch[name]]
        results: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(repeats):
            for name in rate:
                score, size = scorers[name], batch[name]
                count = size * max(2, round(SECONDS * rate[name] / length / size))
                blocks = draw_blocks(count + size, length, vocabulary)
                results[name].append(count * length / seconds_beyond_one_batch(score, blocks, size))
        scores = {name: score(trial, batch[name]) for name, score in scorers.items()}
    exact = scores["reference"][:, 1:].flatten()
    rows = {}
    for name in names:
        ours = scores[name][:, 1:].flatten()
        rate_now = statistics.median(results[name] or [math.nan])
        rows[name] = {
            "tokens_per_second": rate_now,
            "gflops": rate_now * flops_per_token(name, length, vocabulary) / 1e9,
            "batch": batch[name],
            "correlation": float(torch.corrcoef(torch.stack([ours, exact]))[0, 1]),
            "mask_jaccard": jaccard(ours, exact, 0.02),
        }
    shifted = scores["kronfluence"][:, :-1].flatten()
    rows["positional"]["correlation_with_kronfluence"] = float(
        torch.corrcoef(torch.stack([scores["positional"][:, 1:].flatten(), shifted]))[0, 1]
    )
    return rows


def jaccard(a: Tensor, b: Tensor, share: float) -> float:
    count = int(share * len(a))
    top_a, top_b = (set(x.topk(count).indices.tolist()) for x in (a, b))
    return len(top_a & top_b) / len(top_a | top_b)


def peak_memory(name: str, length: int, vocabulary: int, batch: int) -> float:
    """MiB of making ready and scoring, above what a fresh process holds with the model; in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        model = build(length, vocabulary)
        blocks = draw_blocks(2 * batch, length, vocabulary)
        before = torch.cuda.memory_allocated() / 2**20 if DEVICE == "cuda" else _status("VmRSS")
        del model
        make_scorers(length, vocabulary, folder, [name])[name](blocks, batch)
        return (torch.cuda.max_memory_allocated() / 2**20 if DEVICE == "cuda" else _status("VmHWM")) - before


def peak_memory_elsewhere(*arguments: object) -> float:
    command = [sys.executable, __file__, f"device={DEVICE}", f"memory_of={','.join(map(str, arguments))}"]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(child.stdout.split()[-1])


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def measure_directions(length: int, vocabulary: int, repeats: int) -> dict[str, float]:
    """How much faster are k directions in one pass than k passes of one?"""
    model = build(length, vocabulary)
    directions = [query_direction(model, draw_blocks(1, 32 + i, vocabulary)) for i in range(DIRECTIONS)]
    blocks = draw_blocks(BATCH_TOKENS[0] // length, length, vocabulary).to(DEVICE)
    ratios = {}
    for name in (name for name in TIMED if name in SCORERS):
        one, several = (SCORERS[name].prepare(copy.deepcopy(model), d, blocks) for d in (directions[:1], directions))
        pairs = [
            [seconds(lambda x, _, s=s: s(x).cpu(), blocks, 0) for s in (one, several)] for _ in range(2 * repeats + 1)
        ]
        ratios[name] = statistics.median(DIRECTIONS * single / joint for single, joint in pairs[1:])
    return ratios


def main() -> None:
    warnings.simplefilter("ignore")
    if "memory_of" in OPTIONS:
        name, length, vocabulary, batch = OPTIONS["memory_of"].split(",")
        print(peak_memory(name, int(length), int(vocabulary), int(batch)))
        return
    cases = [
        tuple(map(int, case.split("x")))
        for case in OPTIONS.get("cases", "256x4096,256x50304,2048x4096,2048x50304").split(",")
    ]
    repeats = int(OPTIONS.get("repeats", 3))
    hardware = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {hardware}, GPT-NeoX {LAYERS} × {WIDTH}, {str(DTYPE).removeprefix('torch.')}\n")
    print(
        "| block | vocabulary | scorer | tokens/s | ratio | GFLOP/s | batch | peak MiB | at the largest batch "
        "| correlation | Jaccard 2% |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    summary: dict[str, dict[str, float]] = {}
    for length, vocabulary in cases:
        rows = measure_speed(length, vocabulary, repeats, OPTIONS.get("timed") == "all")
        base = rows["kronfluence"]
        largest_batch = max(1, BATCH_TOKENS[-1] // length)
        for name, row in rows.items():
            memory = "– | –"
            if name in TIMED:
                row["peak"] = peak_memory_elsewhere(name, length, vocabulary, row["batch"])
                row["peak_at_largest"] = peak_memory_elsewhere(name, length, vocabulary, largest_batch)
                memory = f"{row['peak']:,.0f} | {row['peak_at_largest']:,.0f}"
            print(
                f"| {length} | {vocabulary} | {name} | {row['tokens_per_second']:,.0f} "
                f"| {row['tokens_per_second'] / base['tokens_per_second']:.2f} | {row['gflops']:.0f} | {row['batch']} "
                f"| {memory} | {row['correlation']:.6f} | {row['mask_jaccard']:.3f} |".replace("nan", "–"),
                flush=True,
            )
        ours = [rows[name] for name in TIMED if name in SCORERS]
        fastest = max(ours, key=lambda row: row["tokens_per_second"])
        summary[f"{length}x{vocabulary}"] = {
            "throughput_ratio": fastest["tokens_per_second"] / base["tokens_per_second"],
            "jvp_throughput_ratio": rows["jvp"]["tokens_per_second"] / base["tokens_per_second"],
            "memory_ratio": fastest["peak_at_largest"] / base["peak_at_largest"],
            "memory_ratio_at_own_batch": fastest["peak"] / base["peak"],
            "jvp_memory_ratio": rows["jvp"]["peak_at_largest"] / base["peak_at_largest"],
            "correlation": min(row["correlation"] for row in ours),
            "mask_jaccard": min(row["mask_jaccard"] for row in ours),
            "positional_correlation_with_kronfluence": rows["positional"]["correlation_with_kronfluence"],
        }
    together = measure_directions(*cases[0], repeats)
    for name, ratio in together.items():
        print(f"\n{DIRECTIONS} directions in one pass of {name}: {ratio:.2f} × as fast as {DIRECTIONS} passes.")
    worst = {key: min(case[key] for case in summary.values()) for key in next(iter(summary.values()))}
    largest = summary[list(summary)[-1]]  # memory is compared at the largest case
    worst |= {key: largest[key] for key in largest if "memory" in key}
    worst |= {f"{name}_directions_ratio": ratio for name, ratio in together.items()}
    print(json.dumps({**{key: round(value, 5) for key, value in worst.items()}, "cases": summary}))


if __name__ == "__main__":
    main()
