"""Speed of sampling continuations, beside the loop that pads every prompt to 256 tokens and repeats it 25 times.

IFGUIDE_DATASETS=... python experiments/benchmarks/generation.py [prompts=8] [repeats=3] [device=cuda]
    [models=pythia_14m,pythia_70m]
"""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shared import VOCABULARY, apart, interleaved, memory, random_model, read_options, seconds, table
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.corpus.real_toxicity_prompts import real_toxicity_prompts
from ifguide.decoding import Nucleus
from ifguide.decoding.generation import sample_continuations

SAMPLES, NEW, PADDED = 25, 20, 256
ROWS = {"ours": 1000, "naive": 200}  # sequences at the same time; more of the padded ones are not faster
OPTIONS = read_options(prompts="8", repeats="3", models="pythia_14m,pythia_70m", device="cpu")
DEVICE = OPTIONS["device"]
build = partial(random_model, dtype=torch.float32, device=DEVICE)


def prompts(count: int) -> list[list[int]]:
    if "IFGUIDE_DATASETS" not in os.environ:
        draws = torch.randint(VOCABULARY, (count, 17), generator=torch.Generator().manual_seed(0)).tolist()
        return [ids[: 8 + index % 10] for index, ids in enumerate(draws)]
    folder = Path(os.environ["IFGUIDE_DATASETS"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizers/pythia_neox20b/tokenizer.json"))
    found = real_toxicity_prompts(files=str(folder / "rtp/quark_val.jsonl.gz"), limit=count // 2)
    return [tokenizer.encode(prompt.text) for prompt in found]


def ours(model: PreTrainedModel, ids: list[list[int]]) -> None:
    drawn = {"samples": SAMPLES, "max_new_tokens": NEW, "rows": ROWS["ours"], "seed": 0}
    sample_continuations(model, ids, decoder=Nucleus(top_p=0.9), end_of_text=0, **drawn)


@torch.no_grad()
def naive(model: PreTrainedModel, ids: list[list[int]]) -> None:
    """What the published evaluation does: left padding to 256, every prompt 25 times through the prefill."""
    torch.manual_seed(0)
    each = ROWS["naive"] // SAMPLES
    for batch in (ids[first : first + each] for first in range(0, len(ids), each)):
        padded = torch.tensor([[0] * (PADDED - len(p)) + p for p in batch], device=model.device)
        mask = torch.tensor([[0] * (PADDED - len(p)) + [1] * len(p) for p in batch], device=model.device)
        model.generate(
            padded.repeat_interleave(SAMPLES, 0), attention_mask=mask.repeat_interleave(SAMPLES, 0), do_sample=True,
            top_p=0.9, top_k=0, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip


WAYS: dict[str, Callable[[PreTrainedModel, list[list[int]]], None]] = {"ours": ours, "naive": naive}


def memory_above_model(way: str, size: str, count: int) -> float:
    model, ids = build(size), prompts(count)
    held = memory("VmRSS", DEVICE)
    WAYS[way](model, ids)
    return memory("VmHWM", DEVICE) - held


def main() -> None:
    ids = prompts(int(OPTIONS["prompts"]))
    lengths, tokens = sorted(map(len, ids)), len(ids) * SAMPLES * NEW
    about = f"{lengths[0]} to {lengths[-1]} tokens (median {lengths[len(ids) // 2]})"
    print(f"{len(ids)} prompts of {about}, {torch.get_num_threads()} threads\n")
    rows, figures = [], dict[str, Any](device=DEVICE)
    for size in OPTIONS["models"].split(","):
        model = build(size)
        ours(model, ids[:2])  # warm
        calls = {way: partial(seconds, partial(run, model, ids)) for way, run in WAYS.items()}
        spent = interleaved(calls, int(OPTIONS["repeats"]))
        for way in WAYS:
            speed, peak = tokens / spent[way], apart(memory_above_model, way, size, min(16, len(ids)))
            rows.append({"model": size, "way": way, "new tokens/s": speed, "ratio": spent["naive"] / spent[way],
                         "peak MiB above the model": peak})  # fmt: skip
            figures[f"{way}, {size}"] = {"tokens_per_second": round(speed, 1), "peak_mib": round(peak)}
        figures[f"{size.split('_')[-1].upper()}_ratio"] = round(spent["naive"] / spent["ours"], 2)
    print(table(rows, {"new tokens/s": ",.0f", "ratio": ".2f", "peak MiB above the model": ",.0f"}), end="\n\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
