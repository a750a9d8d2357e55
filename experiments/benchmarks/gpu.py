"""What one GPU does, in one call of less than ten minutes: scoring, training and generation, in bfloat16.

    IFGUIDE_DATASETS=... python experiments/benchmarks/gpu.py [device=cuda] [output=results/gpu.md] [models=...]

Runs scoring.py, training.py and generation.py with the options below at the shapes of Pythia-160M and Pythia-1B, each
beside what it is compared with there (kronfluence, and bergson where it is installed), and writes what they print after
each, so that a call that is cut off leaves what was measured. `models` are others than these.
"""

import io
import json
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch
from shared import read_options

HERE = Path(__file__).parent


def parts(models: list[str], small: bool) -> list[tuple[str, list[str]]]:
    """Scripts and their options; small ones are for a CPU, to see that all of it runs."""
    case, batches, tokens = ("64x50304", "64,128", "128") if small else ("2048x50304", "4096,16384", "16384")
    once = ["repeats=1"] if small else ["repeats=3"]
    scoring = [("scoring", [*once, f"model={name}", f"cases={case}", f"batches={batches}"]) for name in models]
    blocks, dtype = case.partition("x")[0], "dtype=bfloat16"
    training = ("training", [*once, f"models={','.join(models)}", f"blocks={blocks}", f"tokens={tokens}", dtype])
    return [*scoring, training, ("generation", [*once, f"models={','.join(models)}", f"prompts={2 if small else 64}"])]


def main() -> None:
    options = read_options(device="cuda", output=str(HERE / "results" / "gpu.md"), models="pythia_160m,pythia_1b")
    device, page, figures = options["device"], [], {}
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "error: device=cuda: torch sees no GPU here; run this where there is one, or with device=cpu to try it"
        )
    for script, given in parts(options["models"].split(","), device == "cpu"):
        sys.argv = [str(HERE / f"{script}.py"), *given, f"device={device}"]
        command = " ".join(["python", f"experiments/benchmarks/{script}.py", *sys.argv[1:]])
        with redirect_stdout(io.StringIO()) as printed:
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
                figures[command] = json.loads(printed.getvalue().splitlines()[-1])
            except (RuntimeError, ValueError) as error:  # out of memory, most often: the others are measured
                print(f"failed: {str(error).splitlines()[0]}")
        page.append(f"`{command}`\n\n{printed.getvalue()}")
        Path(options["output"]).write_text("\n".join(page), encoding="utf-8")
        print(page[-1], flush=True)
    print(json.dumps(figures))
    sys.exit(0 if len(figures) == len(page) else 1)


if __name__ == "__main__":
    main()
