"""What does amortised scoring cost, beside exact scoring of the whole corpus?

python experiments/benchmarks/amortised.py [override of run.py ...]
"""

import json
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from shared import interleaved, run_stage, seconds, table

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.tokenizers import token_texts
from ifguide.influence.direction import load_direction
from ifguide.influence.scoring import BlockSampler, prepare_scorer, sample_rows, score_blocks

STUDENTS = {"words": "words", "convolutions": "convolution"}
REPEATS, ROWS_AT_ONCE = 3, 64


def main() -> None:
    warnings.simplefilter("ignore")
    found = {name: run_stage(__file__, name, "stage=direction", f"student={one}") for name, one in STUDENTS.items()}
    run, part = found["words"]
    corpus, model = Corpus(run.artifacts["data"]), part("proxy").load(run.artifacts["proxy"])
    direction, split = load_direction(run.artifacts["direction.toxicity"], model), corpus.split("train")
    texts, chosen = token_texts(corpus.tokenizer), part("student")
    ids = split.tokens(sample_rows(len(split), round(chosen.share * len(split)), chosen.seed))
    scorer = prepare_scorer(part("scorer"), model, [direction], BlockSampler(ids.__getitem__, ids.shape))
    made: dict[str, Any] = {}

    def exact() -> None:
        made["exact"] = score_blocks(scorer, ids, batch_size=16, device=model.device)

    def fit(name: str) -> None:
        made[name] = found[name][1]("student").student.fit(made["exact"], lambda rows: ids[rows], texts)[0]

    def read(name: str) -> None:
        for first in range(0, len(split), ROWS_AT_ONCE):
            block = split.tokens(slice(first, min(first + ROWS_AT_ONCE, len(split))))
            np.asarray(made[name].scores(torch.from_numpy(block)))

    calls = {"exact": exact}
    for name in STUDENTS:
        calls |= {f"{name}, fit": partial(fit, name), f"{name}, read": partial(read, name)}
    median = interleaved({name: partial(seconds, call) for name, call in calls.items()}, REPEATS)
    full, tokens = median["exact"] * len(split) / len(ids), len(split) * split.block_length
    rows = []
    for name in STUDENTS:
        spent = {"fit, s": median[f"{name}, fit"], "reading all tokens, s": median[f"{name}, read"]}
        share = (median["exact"] + sum(spent.values())) / full
        rows.append({"student": name, **spent, "share of the cost of exact scoring, in all": share})
    print(f"{tokens:,} tokens; exact scores of all: {full:.1f} s; of {chosen.share:.0%}: {median['exact']:.1f} s\n")
    print(table(rows, {"fit, s": ".2f", "reading all tokens, s": ".2f", list(rows[0])[-1]: ".1%"}), end="\n\n")
    figures = {f"{row['student']}_cost_ratio": round(list(row.values())[-1], 4) for row in rows}
    print(json.dumps({"tokens": tokens, "share": chosen.share, "exact_seconds": round(full, 2), **figures}))


if __name__ == "__main__":
    main()
