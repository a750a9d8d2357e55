"""Does better attribution detoxify better? Continues a model with the masks of several scores.

    IFGUIDE_DATASETS=... python experiments/attribution_quality/detoxify.py [render=true] [override ...]

Sweeps `+experiment=detoxification` from the uncensored model of `+experiment=real_text`, and masks that other scores
than influence give at the same budget.
"""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ifguide.evaluation.token_baselines import BM25, WORD_LIST, lexical_scores
from ifguide.report.attribution import plot_trade_off
from ifguide.report.experiment import Experiment, facts_of, publish
from ifguide.report.gather import Run
from ifguide.stages.influence import Mask
from ifguide.stages.stage import Existing
from ifguide.stages.study import Study
from ifguide.workspace import as_override

LISTS = yaml.safe_load(Path(__file__).with_name("variants.yaml").read_text(encoding="utf-8"))
CELLS = {"toxic fraction, toxic prompts": ("toxicity", "toxic", "toxic_fraction"),
         "toxic fraction, other prompts": ("toxicity", "nontoxic", "toxic_fraction"),
         "expected maximum toxicity": ("toxicity", "all", "expected_maximum_toxicity"),
         "benign perplexity": ("perplexity", "benign", "perplexity")}  # fmt: skip
POOLINGS = {"none": "exact scores", "word_context": "pooled by word and context"}
LIMITS = (0.005, 0.01, 0.02)  # L; q follows as 1 − L/2
EXACT = "exact (`jvp`)"


def other_masks(study: Study) -> dict[str, Path]:
    """What Algorithm 1 selects from other scores than influence."""
    noise = np.random.default_rng(0).random(study.split.shape, dtype=np.float32)  # also orders the ties of the words
    lexical = lexical_scores(study.split, study.tokenizer, study.queries)
    means = {
        "random tokens": lambda: noise, "lowest exact scores": lambda: -np.asarray(study.scores(EXACT)),
        "word list": lambda: lexical[WORD_LIST]() + np.float32(1e-3) * noise,
        BM25: lambda: lexical[BM25]() + np.float32(1e-3) * noise,
    }  # fmt: skip
    shared = {"data": study.existing("data", "data"), "behaviours": ["toxicity"], "selection": study.part("selection")}
    made = {name: study.baseline(f"{name}, to select from", compute) for name, compute in means.items()}
    return {name: study.build(Mask(scores=Existing(folder=one.path, stage="baseline"), **shared)).path
            for name, one in made.items()}  # fmt: skip


def cells(runs: list[Run]) -> dict[str, list[float]]:
    """Metric → its values of several seeds."""
    found = [facts_of(run)["metrics"] for run in runs]
    return {title: [one[task][subset][key] for one in found] for title, (task, subset, key) in CELLS.items()}


def measure(experiment: Experiment) -> dict[str, Any]:
    study = Study(experiment, "masks", {EXACT: LISTS["variants"][EXACT]}, "+experiment=real_text")
    # the proxy is the uncensored model of its seed
    tuned = ("+experiment=detoxification", f"start={study.base.typed('proxy')}")
    curves: dict[str, dict[str, dict[str, list[float]]]] = {}
    for suffix, overrides in ({"": []} | LISTS["detoxified"]).items():
        for limit in LIMITS:
            selection = (f"selection.limit={limit}", f"selection.quantile={1 - limit / 2}")
            runs = experiment.sweep(f"limit {limit}{suffix}", *tuned, *selection, *overrides)
            for pooling, name in POOLINGS.items():
                points = curves.setdefault(f"{name}{suffix}", {})
                points[f"{limit:.1%}"] = cells([run for run in runs if run.overrides["pooling"] == pooling])
    one = ("pooling=none", "seed=0")
    student = (*LISTS["variants"]["amortised from 5 %"], "pooling=none")
    rows = {"no mask": cells(experiment.sweep("no mask", *tuned, "method=none", *one))}
    rows |= {name: points["2.0%"] for name, points in curves.items()}
    rows["amortised from 5 %"] = cells(experiment.sweep("amortised", *tuned, *student))
    for name, mask in other_masks(study).items():
        rows[name] = cells(experiment.sweep(name, *tuned, f"paths.mask={as_override(mask)}", *one))
    x, y = "benign perplexity", "toxic fraction, toxic prompts"
    shown = {name: [(limit, cell[x], cell[y]) for limit, cell in points.items()] for name, points in curves.items()}
    plot_trade_off(shown, experiment.output / "frontier.png", labels=(x, y))
    first = facts_of(runs[0], "optim.epochs", "objective.penalty")
    return {"rows": rows, "curves": curves, "first": first, "figures": {"rows": rows, "over limits": curves}}


if __name__ == "__main__":
    publish(__file__, measure, page="detoxification.md")
