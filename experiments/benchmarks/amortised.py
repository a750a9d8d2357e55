"""What does amortised scoring cost, beside exact scoring of the whole corpus?

    python experiments/benchmarks/amortised.py [override ...]

Overrides are those of run.py, as in `+experiment=real_text`; without them, the built-in sample. Exact scores of a
sample of blocks, the fit of a student to them and its reading of all blocks are timed in one process, repeated and
interleaved, medians; exact scoring of all blocks is the time of the sample by its share. Peak memory is not compared:
the exact scorer's decides both.
"""

import json
import logging
import statistics
import sys
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from ifguide.corpus.tokenizers import token_texts
from ifguide.influence.direction import load_direction
from ifguide.influence.scoring import prepare_scorer, sample_rows, score_blocks
from ifguide.pipeline import Pipeline

CONF = Path(__file__).parents[2] / "conf"
STUDENTS = {"words": "scorer=amortised", "convolutions": "scorer=amortised_convolution"}
REPEATS = 3
ROWS_AT_ONCE = 64


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    fixed = [*sys.argv[1:], "stage=scores", "method=ifguide", "trainer.progress=false", "paths.run=outputs/amortised"]
    with initialize_config_dir(str(CONF), version_base="1.3"), redirect_stdout(sys.stderr):
        pipelines = {name: Pipeline(compose("config", overrides=[*fixed, option])) for name, option in STUDENTS.items()}
        pipeline = next(iter(pipelines.values()))
        model = pipeline._load(pipeline.proxy(), "proxy")
        direction = load_direction(pipeline.direction().path, model)
    settings, split = pipeline.scorer, pipeline.corpus.split("train")
    rows = sample_rows(len(split), round(settings.share * len(split)), settings.seed)
    ids = split.tokens(rows)
    scorer = prepare_scorer(settings.exact, model, [direction], lambda places: ids[places], (1, *ids.shape), 0)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, call: Any) -> Any:
        start = time.perf_counter()
        result = call()
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    def read_all(student: Any) -> None:
        for first in range(0, len(split), ROWS_AT_ONCE):
            block = split.tokens(slice(first, min(first + ROWS_AT_ONCE, len(split))))
            np.asarray(student.scores(torch.from_numpy(block)))

    texts = token_texts(pipeline.corpus.tokenizer)
    for _ in range(REPEATS):
        exact = timed("exact", lambda: score_blocks(scorer, ids, batch_size=16, device=model.device))
        for name, chosen in pipelines.items():
            fit = chosen.scorer.student.fit
            student, _ = timed(f"{name}, fit", lambda fit=fit, e=exact: fit(e, lambda p: ids[p], texts))
            timed(f"{name}, read", lambda student=student: read_all(student))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    full = median["exact"] * len(split) / len(rows)
    tokens = len(split) * split.block_length
    print(f"{tokens:,} tokens; exact scores of all: {full:.1f} s; of {settings.share:.0%}: {median['exact']:.1f} s\n")
    print(
        "| student | fit, s | reading all tokens, s | share of the cost of exact scoring, in all |\n|---|---|---|---|"
    )
    ratios = {}
    for name in pipelines:
        fit, read = median[f"{name}, fit"], median[f"{name}, read"]
        ratios[name] = (median["exact"] + fit + read) / full
        print(f"| {name} | {fit:.2f} | {read:.2f} | {ratios[name]:.1%} |")
    print()
    figures = {f"cost_ratio_of_{name.replace(' ', '_')}": round(ratio, 4) for name, ratio in ratios.items()}
    print(json.dumps({"tokens": tokens, "share": settings.share, "exact_seconds": round(full, 2), **figures}))


if __name__ == "__main__":
    main()
