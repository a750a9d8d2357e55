"""Speed of sampling continuations, beside the loop that pads every prompt to 256 tokens and repeats it 25 times.

    IFGUIDE_DATASETS=... python experiments/benchmarks/generation.py [prompts=8] [repeats=3] [device=cuda]

Prompts of RealToxicityPrompts, 25 continuations of 20 tokens each, nucleus sampling, untrained models of two sizes:
what is drawn does not matter for speed. Both do the same work in turns; medians, and the peak memory of a process of
its own.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from ifguide.corpus.queries import real_toxicity_prompts
from ifguide.decoding import Nucleus
from ifguide.evaluation.generation import sample_continuations

SAMPLES, NEW, PADDED = 25, 20, 256
ROWS = {"ours": 1000, "naive": 200}  # sequences at the same time; more of the padded ones are not faster
SIZES = {"14 M, vocabulary 50k": (128, 6, 4, 512), "70 M, vocabulary 50k": (512, 6, 8, 2048)}
OPTIONS = {"prompts": "8", "repeats": "3", "device": "cpu", "memory_of": ""}
OPTIONS |= dict(argument.split("=", 1) for argument in sys.argv[1:])


def build(size: str) -> PreTrainedModel:
    width, layers, heads, inner = SIZES[size]
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=50304, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(OPTIONS["device"]).eval()


def prompts(count: int) -> list[list[int]]:
    folder = Path(os.environ["IFGUIDE_DATASETS"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizers/pythia_neox20b/tokenizer.json"))
    found = real_toxicity_prompts(files=str(folder / "rtp/quark_val.jsonl.gz"), limit=count // 2)
    return [tokenizer.encode(prompt.text) for prompt in found]


def ours(model: PreTrainedModel, ids: list[list[int]]) -> None:
    sample_continuations(
        model, ids, decoder=Nucleus(top_p=0.9), samples=SAMPLES, max_new_tokens=NEW, end_of_text=0,
        rows=ROWS["ours"], seed=0,
    )  # fmt: skip


@torch.no_grad()
def naive(model: PreTrainedModel, ids: list[list[int]]) -> Tensor:
    """What the published evaluation does: left padding to 256, every prompt 25 times through the prefill."""
    torch.manual_seed(0)
    results = []
    each = ROWS["naive"] // SAMPLES
    for first in range(0, len(ids), each):
        batch = ids[first : first + each]
        padded = torch.tensor([[0] * (PADDED - len(p)) + p for p in batch], device=model.device)
        mask = torch.tensor([[0] * (PADDED - len(p)) + [1] * len(p) for p in batch], device=model.device)
        result = model.generate(
            padded.repeat_interleave(SAMPLES, 0), attention_mask=mask.repeat_interleave(SAMPLES, 0), do_sample=True,
            top_p=0.9, top_k=0, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        results.append(result[:, PADDED:])
    return torch.cat(results)


WAYS: dict[str, Callable] = {"ours": ours, "naive": naive}


def peak_memory(way: str, size: str, count: str) -> float:
    """MiB above what a process holds with the model."""
    if OPTIONS["device"] == "cuda":
        model, ids = build(size), prompts(int(count))
        held = torch.cuda.memory_allocated()
        WAYS[way](model, ids)
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    model, ids = build(size), prompts(int(count))
    held = _status("VmRSS")
    WAYS[way](model, ids)
    return _status("VmHWM") - held


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def main() -> None:
    if OPTIONS["memory_of"]:
        print(peak_memory(*OPTIONS["memory_of"].split("|")))
        return
    ids = prompts(int(OPTIONS["prompts"]))
    lengths = sorted(map(len, ids))
    tokens = len(ids) * SAMPLES * NEW
    print(
        f"{len(ids)} prompts of {lengths[0]} to {lengths[-1]} tokens (median {lengths[len(ids) // 2]}), "
        f"{torch.get_num_threads()} threads\n"
    )
    print("| model | way | new tokens/s | ratio | peak MiB above the model |\n|---|---|---|---|---|")
    figures = {}
    for size in SIZES:
        model = build(size)
        WAYS["ours"](model, ids[:2])  # warm
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(int(OPTIONS["repeats"])):
            for way, run in WAYS.items():
                start = time.perf_counter()
                run(model, ids)
                if OPTIONS["device"] == "cuda":
                    torch.cuda.synchronize()
                seconds[way].append(time.perf_counter() - start)
        speed = {way: tokens / statistics.median(times) for way, times in seconds.items()}
        for way in WAYS:
            command = [
                sys.executable,
                __file__,
                f"memory_of={way}|{size}|{min(16, len(ids))}",
                f"device={OPTIONS['device']}",
            ]
            memory = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
            ratio = speed[way] / speed["naive"]
            print(f"| {size} | {way} | {speed[way]:,.0f} | {ratio:.2f} | {memory:,.0f} |", flush=True)
            figures[f"{way}, {size}"] = {"tokens_per_second": round(speed[way], 1), "peak_mib": round(memory)}
        figures[f"{size.split(',')[0].replace(' ', '')}_ratio"] = round(speed["ours"] / speed["naive"], 2)
    print()
    print(json.dumps({"device": OPTIONS["device"], **figures}))


if __name__ == "__main__":
    main()
