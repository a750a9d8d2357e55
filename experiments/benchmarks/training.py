"""How fast is a step of training, and what memory does it take, beside what it was before and `transformers.Trainer`?

python experiments/benchmarks/training.py [models=pythia_14m,pythia_70m,smollm2_135m] [blocks=256,1024]
    [tokens=1024] [repeats=2] [dtype=float32] [device=cpu] [clock=wall]
"""

import json
import statistics
import time
from contextlib import nullcontext
from tempfile import gettempdir
from typing import Any

import torch
from shared import apart, memory, model_settings, random_model, read_options, seconds, table
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ifguide.cost.shape import shape_of
from ifguide.hardware import computes_bfloat16, keeping_freed_memory
from ifguide.objectives import LanguageModeling
from ifguide.training.module import CausalLanguageModel
from ifguide.training.optimization import Optimization

GIVEN = {"models": "pythia_14m,pythia_70m,smollm2_135m", "blocks": "256,1024", "tokens": "1024", "repeats": "2"}
OPTIONS = read_options(**GIVEN, dtype="", device="cpu", clock="wall")
DEVICE, WARM, STEPS = OPTIONS["device"], 3, 3  # steps before those that are timed, and these
FAST = "bfloat16" if computes_bfloat16(torch.device(DEVICE)) else "float32"
DTYPE = getattr(torch, OPTIONS["dtype"] or FAST)
CLOCK = {"wall": time.perf_counter, "cpu": time.process_time}[OPTIONS["clock"]]
# in float32 with whole logits, memory handed back · today's forms · the library's loop, in our dtype
FORMS = {"plain": "", "fused": "_fused", "checkpointed": "_checkpointed"}  # the last: fused, and activations made again
WAYS = ("before", *FORMS, "trainer")
RATIOS = {"training": ("before", "tokens/s", min), "training_over_trainer": ("trainer", "tokens/s", min),
          "memory": ("before", "peak MiB", max), "loss_memory": ("before", "of the loss", max)}  # fmt: skip


class Step:
    def __init__(self, model: PreTrainedModel, way: str) -> None:
        optim = Optimization(learning_rate=1e-3, batch_size=1, epochs=1)
        self.optimizer, _ = optim.configure(model.named_parameters(), 1000)
        given = {"steps": 1000, "seed": 0, "fused": way in ("fused", "checkpointed")}
        if way == "checkpointed":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model, self.module = model, CausalLanguageModel(model, LanguageModeling(), optim, **given)
        self.dtype = torch.float32 if way == "before" else DTYPE
        kind = {"use_cpu": DEVICE == "cpu", "bf16": DTYPE == torch.bfloat16, "report_to": "none"}
        self.trainer = Trainer(model, TrainingArguments(gettempdir(), **kind)) if way == "trainer" else None
        if self.trainer is not None:  # as its own loop does: that is where autocast comes from
            self.model = self.trainer.accelerator.prepare_model(model)

    def __call__(self, ids: Tensor) -> None:
        if self.trainer is None:
            with torch.autocast(DEVICE, self.dtype, enabled=self.dtype != torch.float32):
                loss = self.module.loss({"input_ids": ids})
            loss.backward()
        else:
            self.trainer.current_gradient_accumulation_steps = 1  # which its own loop sets
            self.trainer.training_step(self.model, {"input_ids": ids, "labels": ids})
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure(name: str, length: int, way: str) -> tuple[float, float, float]:
    """Seconds of a step, MiB at most, and seconds of a product of matrices, in this process."""
    model = random_model(name, dtype=torch.float32, device=DEVICE).train()
    rows, generator = max(1, int(OPTIONS["tokens"]) // length), torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (rows, length), generator=generator).to(DEVICE)
    held, step = memory("VmRSS", DEVICE), Step(model, way)
    with keeping_freed_memory() if way in FORMS else nullcontext():
        for _ in range(WARM):  # memory is the program's own only then
            step(ids)
        spent = statistics.median(seconds(lambda: step(ids), CLOCK) for _ in range(STEPS))
    most = memory("VmHWM", DEVICE) - held
    matrix = torch.randn(2048, 2048, device=DEVICE, dtype=step.dtype)
    return spent, most, statistics.median(seconds(lambda: matrix @ matrix, CLOCK) for _ in range(5))


def rows_of(name: str, length: int) -> dict[str, dict[str, Any]]:
    """Way → what was measured; all ways in turn, each in a process of its own."""
    rounds = [{way: apart(measure, name, length, way) for way in WAYS} for _ in range(int(OPTIONS["repeats"]))]
    settings = model_settings(name)
    shape, count = shape_of(settings, settings.settings["vocab_size"]), max(1, int(OPTIONS["tokens"]) // length)
    rows: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        spent, most, product = (statistics.median(one[way][part] for one in rounds) for part in range(3))
        share = 3 * count * shape.forward(length) / (2 * 2048**3) * product / spent
        rows[way] = {"tokens/s": count * length / spent, "of the peak": share, "peak MiB": most,
                     "of the loss": most - 12 * shape.parameters / 2**20}  # fmt: skip
    return {way: {"ratio": row["tokens/s"] / rows["before"]["tokens/s"], **row} for way, row in rows.items()}


def main() -> None:
    kind, shown, figures = str(DTYPE).removeprefix("torch."), [], {}
    hardware = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {hardware}, {kind}, {OPTIONS['tokens']} tokens, clock={OPTIONS['clock']}\n")
    for name in OPTIONS["models"].split(","):
        found = {length: rows_of(name, int(length)) for length in OPTIONS["blocks"].split(",")}
        for length, rows in found.items():
            shown += [{"model": name, "block": length, "way": way, **row} for way, row in rows.items()]
        for key, (way, column, worst) in RATIOS.items():
            for form, suffix in FORMS.items():
                ratio = worst(rows[form][column] / rows[way][column] for rows in found.values())
                figures[f"{key}_ratio_{name.split('_')[-1]}{suffix}"] = round(ratio, 3)
    whole = dict.fromkeys(("tokens/s", "peak MiB", "of the loss"), ",.0f")
    print(table(shown, {**whole, "ratio": ".2f", "of the peak": ".0%"}), end="\n\n")
    print(json.dumps({"device": DEVICE, "dtype": kind, **figures}))


if __name__ == "__main__":
    main()
