"""What one GPU does, in one call of less than ten minutes: scoring, training and generation.

IFGUIDE_DATASETS=... python experiments/benchmarks/gpu.py [output=results/gpu.md] [models=pythia_160m,pythia_1b]
"""

import io
import json
import runpy
import sys
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path

import torch
from shared import read_options

HERE = Path(__file__).parent
PARTS = {
    "cuda": ("scoring model={} cases=2048x50304 batches=4096,16384", "generation models={} prompts=64",
             "training models={} blocks=2048 tokens=16384 dtype=bfloat16"),
    "cpu": ("scoring model={} cases=32x512 batches=32 seconds=0 repeats=1", "generation models={} prompts=2 repeats=1",
            "training models={} blocks=32 tokens=64 dtype=float32 repeats=1"),
}  # fmt: skip


def main() -> None:
    options = read_options(device="cuda", output=str(HERE / "results" / "gpu.md"), models="pythia_160m,pythia_1b")
    device, models, page, figures = options["device"], options["models"], [], {}
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: device=cuda: torch sees no GPU here; run this where one is, or with device=cpu to try it")
    for part, model in product(PARTS[device], models.split(",")):
        script, *given = f"{part.format(model)} device={device}".split()
        sys.argv = [str(HERE / f"{script}.py"), *given]
        with redirect_stdout(io.StringIO()) as printed:
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
                figures[" ".join([script, *given])] = json.loads(printed.getvalue().splitlines()[-1])
            except (RuntimeError, ValueError) as error:  # out of memory, most often: the others are measured
                print(f"failed: {str(error).splitlines()[0]}")
        page.append(f"`python experiments/benchmarks/{script}.py {' '.join(given)}`\n\n{printed.getvalue()}")
        Path(options["output"]).write_text("\n".join(page), encoding="utf-8")
        print(page[-1], flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
