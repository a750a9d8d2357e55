"""How fast and how large is scoring, beside kronfluence's own per-token scores, and bergson's where it is installed?

python experiments/benchmarks/scoring.py [repeats=3] [cases=256x4096,256x50304,2048x4096,2048x50304] [timed=all]
    [model=pythia_160m] [batches=16384,65536] [seconds=2.5] [dtype=bfloat16] [device=cuda]
"""

import copy
import json
import logging
import math
import statistics
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from kronfluence import Analyzer, FactorArguments, ScoreArguments, prepare_model
from shared import apart, interleaved, memory, model_settings, random_model, read_options, seconds, table
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.influence.kronfluence_factors import Blocks, LanguageModelingTask
from ifguide.influence.scorers import JVP, FiniteDifference, Positional
from ifguide.models import layer_matrix, tracked_layers, tracked_parameters
from ifguide.objectives.language_modeling import token_losses

CASES = "256x4096,256x50304,2048x4096,2048x50304"
OPTIONS = read_options(repeats="3", cases=CASES, timed="", model="", batches="", seconds="2.5", dtype="", device="cpu")
DEVICE, EVERY = OPTIONS["device"], OPTIONS["timed"] == "all"
DTYPE = getattr(torch, OPTIONS["dtype"] or ("bfloat16" if DEVICE == "cuda" else "float32"))
MODEL = OPTIONS["model"] or ("pythia_160m" if DEVICE == "cuda" else "pythia_14m")
WIDTH, LAYERS = (model_settings(MODEL).settings[key] for key in ("hidden_size", "num_hidden_layers"))
FINITE = {} if DEVICE == "cuda" else {"finite_difference": FiniteDifference()}
SCORERS = {**FINITE, "jvp": JVP(), "positional": Positional(), "reference": JVP(form="reference")}
RESTRICTED = {"finite_difference, last 2 blocks": 2} if FINITE and EVERY else {}  # lower blocks are computed once
BATCHES = "16384,65536" if DEVICE == "cuda" else "2048,4096,8192"
BATCH_TOKENS = tuple(map(int, (OPTIONS["batches"] or BATCHES).split(",")))
BERGSON = ["bergson"] if find_spec("bergson") else []  # pip install bergson
KRONFLUENCE = ("kronfluence", *(["kronfluence, float32"] if DTYPE != torch.float32 else []))
TIMED = (*KRONFLUENCE, *BERGSON, "finite_difference", "jvp")
SECONDS, DIRECTIONS, LARGEST = float(OPTIONS["seconds"]), 4, "at the largest batch"  # seconds of a measured run
Score = Callable[[Tensor, int], Tensor]  # (blocks, batch) → scores


def dtype_of(name: str) -> torch.dtype:
    """Of the model: the reference and finite differences are in float32 always."""
    exact = name.endswith("float32") or name.split(",")[0] in ("reference", *FINITE)
    return torch.float32 if exact else DTYPE


def build(length: int, vocabulary: int, dtype: torch.dtype = DTYPE) -> PreTrainedModel:
    return random_model(MODEL, dtype=dtype, device=DEVICE, vocab_size=vocabulary, max_position_embeddings=length)


def draw_blocks(count: int, length: int, vocabulary: int) -> Tensor:
    """Token ids with the frequencies of Zipf's law."""
    weights = 1.0 / torch.arange(1, vocabulary + 1)
    generator = torch.Generator().manual_seed(0)
    return torch.multinomial(weights, count * length, replacement=True, generator=generator).view(count, length)


class Kronfluence:
    """kronfluence's `compute_pairwise_scores` along the gradient of one query."""

    def __init__(self, model: PreTrainedModel, query_BT: Tensor, folder: str) -> None:
        self.query, self.calls = query_BT, 0
        task = LanguageModelingTask(list(tracked_layers(model)))
        kind = {"cpu": DEVICE == "cpu", "log_level": logging.ERROR, "disable_tqdm": True, "output_dir": folder}
        self.analyzer = Analyzer("benchmark", prepare_model(copy.deepcopy(model), task), task, **kind)
        identity = FactorArguments(strategy="identity")
        self.analyzer.fit_all_factors("fit", Blocks(query_BT.numpy()), per_device_batch_size=1, factor_args=identity)

    def __call__(self, blocks_BT: Tensor, batch: int) -> Tensor:
        self.calls += 1  # it returns what it has under a name, whatever is asked
        data = {"query_dataset": Blocks(self.query.numpy()), "train_dataset": Blocks(blocks_BT.numpy())}
        sizes = {"per_device_query_batch_size": 1, "per_device_train_batch_size": batch}
        asked = ScoreArguments(compute_per_token_scores=True, aggregate_query_gradients=True)
        self.analyzer.compute_pairwise_scores(str(self.calls), "fit", score_args=asked, **data, **sizes)
        return self.analyzer.load_pairwise_scores(str(self.calls))["all_modules"][0].float()


class Bergson:
    """bergson's `output_token_influence` along a direction."""

    def __init__(self, model: PreTrainedModel, direction: dict[str, Tensor]) -> None:
        from bergson.config.config import IndexConfig
        from bergson.score.output_influence import output_token_influence, query_directions

        self.model, self.score = copy.deepcopy(model), output_token_influence
        self.model.set_attn_implementation("eager")
        grads, layers = {}, {}
        for name, layer in tracked_layers(self.model).items():
            own = name.removeprefix(f"{model.base_model_prefix}.")
            matrix = layer_matrix(layer, direction[f"{name}.weight"], direction.get(f"{name}.bias"))
            grads[own], layers[own] = matrix.reshape(-1, 1), (matrix.device, matrix.shape, layer.bias is not None)
        self.directions = query_directions(self.model, grads, layers)
        self.settings = IndexConfig(run_path="", loss_reduction="sum")

    def __call__(self, blocks_BT: Tensor, batch: int) -> Tensor:
        parts = blocks_BT.to(DEVICE).split(batch)
        scores = [self.score(self.model, one, one, self.directions, self.settings)[0][..., 0].cpu() for one in parts]
        return F.pad(torch.cat(scores), (1, 0))


def query_direction(model: PreTrainedModel, query_BT: Tensor) -> dict[str, Tensor]:
    parameters, query_BT = tracked_parameters(model), query_BT.to(DEVICE)
    loss = token_losses(model(query_BT).logits, query_BT).sum()
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


def make_scorers(length: int, vocabulary: int, folder: str, names: list[str]) -> dict[str, Score]:
    model, query = build(length, vocabulary, torch.float32), draw_blocks(1, 32, vocabulary)
    direction = query_direction(model, query)
    sample = draw_blocks(max(1, 2048 // length), length, vocabulary).to(DEVICE)

    def in_batches(name: str) -> Score:
        kept = tracked_layers(model, last_blocks=RESTRICTED.get(name))
        dtype = dtype_of(name)
        moved = {key: value.to(dtype) for key, value in direction.items() if key.rpartition(".")[0] in kept}
        prepared = SCORERS[name.split(",")[0]].prepare(copy.deepcopy(model).to(dtype), [moved], sample)
        return lambda blocks, batch: torch.cat([prepared(part.to(DEVICE))[0].cpu() for part in blocks.split(batch)])

    def other(name: str) -> Score:
        rounded = copy.deepcopy(model).to(dtype_of(name))
        moved = {key: value.to(rounded.dtype) for key, value in direction.items()}
        return Bergson(rounded, moved) if name in BERGSON else Kronfluence(rounded, query, f"{folder}/{name}")

    return {name: other(name) if name in (*KRONFLUENCE, *BERGSON) else in_batches(name) for name in names}


def rate(score: Score, blocks: Tensor, batch: int) -> float:
    """Tokens a second; for everyone, what a run of one batch takes is not counted, nor are its blocks.

    Where noise is longer than the rest, twice the blocks are run.
    """
    spent = seconds(lambda: score(blocks, batch)) - seconds(lambda: score(blocks[:batch], batch))
    if spent <= 0:
        return rate(score, blocks.repeat(2, 1), batch)
    return (len(blocks) - batch) * blocks.shape[1] / spent


def flops_per_token(name: str, length: int, vocabulary: int) -> float:
    linear, attention, head = 2 * 12 * WIDTH**2 * LAYERS, 2 * length * WIDTH * LAYERS, 2 * vocabulary * WIDTH
    passes = {"finite_difference": (2, 2), "jvp": (3, 3), "reference": (3, 3)}  # of linear layers and of attention
    linears, attentions = passes.get(name.split(",")[0], (3, 3.5))
    if name in RESTRICTED:  # all blocks once, the upper ones once more
        linears = attentions = 1 + RESTRICTED[name] / LAYERS
    return linears * linear + attentions * attention + 2 * head


def measure_speed(length: int, vocabulary: int, repeats: int) -> dict[str, dict[str, float]]:
    names = [*KRONFLUENCE, *BERGSON, *SCORERS, *RESTRICTED]
    sizes = sorted({max(1, tokens // length) for tokens in BATCH_TOKENS})
    with tempfile.TemporaryDirectory() as folder:
        scorers = make_scorers(length, vocabulary, folder, names)
        trial = draw_blocks(2 * sizes[-1], length, vocabulary)
        batch, first = dict.fromkeys(names, sizes[0]), {}

        def timed(name: str) -> float:
            count = batch[name] * (1 + max(2, round(SECONDS * first[name] / length / batch[name])))
            return rate(scorers[name], draw_blocks(count, length, vocabulary), batch[name])

        for name, score in scorers.items():
            score(trial[: sizes[0]], sizes[0])
            if name in TIMED or EVERY:
                rates = {size: rate(score, trial[: max(2 * size, 4)], size) for size in sizes}
                batch[name] = max(rates, key=lambda size: rates[size])
                first[name] = rates[batch[name]]
        speeds = dict.fromkeys(names, math.nan) | interleaved({name: partial(timed, name) for name in first}, repeats)
        scores = {name: score(trial, batch[name]).float() for name, score in scorers.items()}
    exact, rows = scores["reference"][:, 1:].flatten(), {}
    for name in names:
        ours = scores[name][:, 1:].flatten()
        rate_of_flops = speeds[name] * flops_per_token(name, length, vocabulary) / 1e9
        rows[name] = {"tokens/s": speeds[name], "GFLOP/s": rate_of_flops, "batch": batch[name],
                      "correlation": correlation(ours, exact), "Jaccard 2%": jaccard(ours, exact, 0.02)}  # fmt: skip
    return rows | {"": {"positional": correlation(scores["positional"][:, 1:], scores["kronfluence"][:, :-1])}}


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def jaccard(a: Tensor, b: Tensor, share: float) -> float:
    tops = [set(x.topk(int(share * len(a))).indices.tolist()) for x in (a, b)]
    return len(set.intersection(*tops)) / len(set.union(*tops))


def peak(name: str, length: int, vocabulary: int, batch: int) -> float:
    """MiB of making ready and scoring, above what a fresh process holds with the model; in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        model, blocks = build(length, vocabulary, dtype_of(name)), draw_blocks(2 * batch, length, vocabulary)
        before = memory("VmRSS", DEVICE)
        del model
        make_scorers(length, vocabulary, folder, [name])[name](blocks, batch)
        return memory("VmHWM", DEVICE) - before


def measure_directions(length: int, vocabulary: int, repeats: int) -> dict[str, float]:
    """How much faster are k directions in one pass than k passes of one?"""
    model, ratios = build(length, vocabulary, torch.float32), {}
    directions = [query_direction(model, draw_blocks(1, 32 + i, vocabulary)) for i in range(DIRECTIONS)]
    blocks = draw_blocks(BATCH_TOKENS[0] // length, length, vocabulary).to(DEVICE)
    for name in (name for name in TIMED if name in SCORERS):
        dtype = dtype_of(name)
        moved = [{key: value.to(dtype) for key, value in one.items()} for one in directions]
        one, several = (SCORERS[name].prepare(copy.deepcopy(model).to(dtype), d, blocks) for d in (moved[:1], moved))
        pairs = [[seconds(lambda s=s: s(blocks).cpu()) for s in (one, several)] for _ in range(2 * repeats + 1)]
        ratios[name] = statistics.median(DIRECTIONS * single / joint for single, joint in pairs[1:])
    return ratios


def fastest_kronfluence(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return max((rows[name] for name in KRONFLUENCE), key=lambda row: row["tokens/s"])


def compare(rows: dict[str, dict[str, Any]], of_positional: float) -> dict[str, float]:
    """Ratios of one case."""
    ours, base, jvp = [rows[name] for name in TIMED if name in SCORERS], fastest_kronfluence(rows), rows["jvp"]
    fastest = max(ours, key=lambda row: row["tokens/s"])
    found = {
        "throughput_ratio": fastest["ratio"], "jvp_throughput_ratio": jvp["ratio"],
        "memory_ratio": fastest[LARGEST] / base[LARGEST], "jvp_memory_ratio": jvp[LARGEST] / base[LARGEST],
        "memory_ratio_at_own_batch": fastest["peak MiB"] / base["peak MiB"],
        "correlation": min(row["correlation"] for row in ours),
        "mask_jaccard": min(row["Jaccard 2%"] for row in ours),
        "positional_correlation_with_kronfluence": of_positional,
    }  # fmt: skip
    for other in (rows[name] for name in BERGSON):
        found |= {f"{name}_over_bergson_ratio": rows[name]["tokens/s"] / other["tokens/s"] for name in [*FINITE, "jvp"]}
        found["jvp_memory_over_bergson_ratio"] = jvp[LARGEST] / other[LARGEST]
        found["bergson_correlation"] = other["correlation"]
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    cases = [tuple(map(int, case.split("x"))) for case in OPTIONS["cases"].split(",")]
    repeats, shown, summary = int(OPTIONS["repeats"]), [], {}
    hardware = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {hardware}, {MODEL}, {str(DTYPE).removeprefix('torch.')}\n")
    for length, vocabulary in cases:
        rows: dict[str, dict[str, Any]] = measure_speed(length, vocabulary, repeats)
        of_positional = rows.pop("")["positional"]
        for name, row in rows.items():
            row["ratio"] = row["tokens/s"] / fastest_kronfluence(rows)["tokens/s"]
            for key, batch in (("peak MiB", row["batch"]), (LARGEST, max(1, BATCH_TOKENS[-1] // length))):
                row |= {key: apart(peak, name, length, vocabulary, batch)} if name in TIMED else {}
            shown.append({"block": length, "vocabulary": vocabulary, "scorer": name, **row})
        summary[f"{length}x{vocabulary}"] = compare(rows, of_positional)
    whole = dict.fromkeys(("tokens/s", "GFLOP/s", "peak MiB", LARGEST), ",.0f")
    print(table(shown, {**whole, "ratio": ".2f", "correlation": ".6f", "Jaccard 2%": ".3f"}))
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
