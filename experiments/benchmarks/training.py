"""How fast is a step of training, and what memory does it take, beside the plain form and `transformers.Trainer`?

python experiments/benchmarks/training.py [models=pythia_14m,pythia_70m,smollm2_135m] [blocks=256,1024]
    [tokens=2048] [repeats=3] [dtype=float32] [device=cpu] [clock=wall]
"""

import json
import time
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from shared import apart, interleaved, memory, model_settings, random_model, read_options, seconds, table
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ifguide.cost.shape import shape_of
from ifguide.objectives import LanguageModeling
from ifguide.training.module import CausalLanguageModel
from ifguide.training.optimization import Optimization

CPU = Path("/proc/cpuinfo").read_text()
GIVEN = {"models": "pythia_14m,pythia_70m,smollm2_135m", "blocks": "256,1024", "tokens": "2048", "repeats": "3"}
OPTIONS = read_options(**GIVEN, dtype="", device="cpu", clock="wall")
DEVICE, FAST = OPTIONS["device"], "amx_bf16" in CPU or "avx512_bf16" in CPU
DTYPE = getattr(torch, OPTIONS["dtype"] or ("bfloat16" if FAST or OPTIONS["device"] == "cuda" else "float32"))
CLOCK = {"wall": time.perf_counter, "cpu": time.process_time}[OPTIONS["clock"]]
WAYS = ("fused", "plain", "trainer")
RATIOS = {"training": ("plain", "tokens/s", min), "training_over_trainer": ("trainer", "tokens/s", min),
          "memory": ("plain", "peak MiB", max), "loss_memory": ("plain", "of the loss", max)}  # fmt: skip


class Step:
    def __init__(self, model: PreTrainedModel, way: str) -> None:
        optim = Optimization(learning_rate=1e-3, batch_size=1, epochs=1)
        self.optimizer, _ = optim.configure(model.named_parameters(), 1000)
        given = {"steps": 1000, "seed": 0, "fused": way == "fused"}
        self.model, self.module = model, CausalLanguageModel(model, LanguageModeling(), optim, **given)
        kind = {"use_cpu": DEVICE == "cpu", "bf16": DTYPE == torch.bfloat16, "report_to": "none"}
        self.trainer = Trainer(model, TrainingArguments(gettempdir(), **kind)) if way == "trainer" else None

    def __call__(self, ids: Tensor) -> None:
        if self.trainer is None:
            with torch.autocast(DEVICE, DTYPE, enabled=DTYPE != torch.float32):
                loss = self.module.loss({"input_ids": ids})
            loss.backward()
        else:
            self.trainer.current_gradient_accumulation_steps = 1  # which its own loop sets
            self.trainer.training_step(self.model, {"input_ids": ids, "labels": ids})
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def build(name: str, length: int) -> tuple[PreTrainedModel, Tensor]:
    model = random_model(name, dtype=torch.float32, device=DEVICE).train()
    rows, generator = max(1, int(OPTIONS["tokens"]) // length), torch.Generator().manual_seed(0)
    return model, torch.randint(model.config.vocab_size, (rows, length), generator=generator).to(DEVICE)


def peak(name: str, length: int, way: str) -> float:
    model, ids = build(name, length)
    held, step = memory("VmRSS", DEVICE), Step(model, way)
    step(ids)
    step(ids)
    return memory("VmHWM", DEVICE) - held


def measure(name: str, length: int) -> dict[str, dict[str, float]]:
    model, ids = build(name, length)
    shape = shape_of(model_settings(name), model.config.vocab_size)
    matrix = torch.randn(2048, 2048, device=DEVICE, dtype=DTYPE)
    calls: dict[str, Any] = {way: partial(Step(model, way), ids) for way in WAYS} | {"peak": lambda: matrix @ matrix}
    timed = {way: partial(seconds, call, CLOCK) for way, call in calls.items()}
    interleaved(timed, 1)  # warm
    spent, rows = interleaved(timed, int(OPTIONS["repeats"])), {}
    share = 3 * len(ids) * shape.forward(length) / (2 * 2048**3) * spent["peak"]
    for way in WAYS:
        most = apart(peak, name, length, way)
        rows[way] = {"tokens/s": ids.numel() / spent[way], "ratio": spent["plain"] / spent[way],
                     "of the peak": share / spent[way], "peak MiB": most,
                     "of the loss": most - 12 * shape.parameters / 2**20}  # fmt: skip
    return rows


def main() -> None:
    kind, shown, figures = str(DTYPE).removeprefix("torch."), [], {}
    hardware = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {hardware}, {kind}, {OPTIONS['tokens']} tokens, clock={OPTIONS['clock']}\n")
    for name in OPTIONS["models"].split(","):
        found = {length: measure(name, int(length)) for length in OPTIONS["blocks"].split(",")}
        for length, rows in found.items():
            shown += [{"model": name, "block": length, "way": way, **row} for way, row in rows.items()]
        for key, (way, column, worst) in RATIOS.items():
            ratio = worst(rows["fused"][column] / rows[way][column] for rows in found.values())
            figures[f"{key}_ratio_{name.split('_')[-1]}"] = round(ratio, 3)
    whole = dict.fromkeys(("tokens/s", "peak MiB", "of the loss"), ",.0f")
    print(table(shown, {**whole, "ratio": ".2f", "of the peak": ".0%"}), end="\n\n")
    print(json.dumps({"device": DEVICE, "dtype": kind, **figures}))


if __name__ == "__main__":
    main()
