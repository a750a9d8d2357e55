"""Does better attribution detoxify better? Continues a model with the masks of several scores.

    IFGUIDE_DATASETS=... python experiments/attribution_quality/detoxify.py [render=true] [override ...]

Sweeps `+experiment=detoxification` from the uncensored model of `+experiment=real_text`, and masks that other scores
than influence give at the same budget.
"""

from pathlib import Path
from typing import Any

import numpy as np
from study import LISTS, Scores, Study

from ifguide.corpus.words import word_log_odds
from ifguide.evaluation.attribution import word_list_scores
from ifguide.report.attribution import plot_trade_off
from ifguide.report.experiment import Experiment, publish
from ifguide.report.gather import Run
from ifguide.stages.influence import Mask
from ifguide.stages.stage import Existing
from ifguide.workspace import read_manifest

TUNED = "+experiment=detoxification"
CELLS = {
    "toxic fraction, toxic prompts": ("toxicity", "toxic", "toxic_fraction"),
    "toxic fraction, other prompts": ("toxicity", "nontoxic", "toxic_fraction"),
    "expected maximum toxicity": ("toxicity", "all", "expected_maximum_toxicity"),
    "benign perplexity": ("perplexity", "benign", "perplexity"),
}
POOLINGS = {"none": "exact scores", "word_context": "pooled by word and context"}
LIMITS = (0.005, 0.02)  # L; q follows as 1 − L/2
EXACT = "exact (`jvp`)"


def other_masks(study: Study) -> dict[str, Path]:
    """What Algorithm 1 selects from other scores than influence."""
    split, rng = study.split, np.random.default_rng

    def word_list() -> Scores:
        scores = word_list_scores(split, study.tokenizer, word_log_odds(study.queries))
        return scores + 1e-3 * rng(0).random(split.shape, dtype=np.float32)  # ties in random order

    means = {
        "random tokens": lambda: rng(0).random(split.shape, dtype=np.float32),
        "lowest exact scores": lambda: -np.asarray(study.scores(EXACT)),
        "word list": word_list,
    }
    masks = {}
    for name, compute in means.items():
        scores = Existing(folder=study.baseline(f"{name}, to select from", compute).path, stage="baseline")
        masks[name] = study.build(
            Mask(scores=scores, data=study.existing("data"), behaviours=["toxicity"], selection=study.part("selection"))
        ).path
    return masks


def cells(runs: list[Run]) -> dict[str, list[float]]:
    """Metric → its values of several seeds."""
    values: dict[str, list[float]] = {title: [] for title in CELLS}
    for run in runs:
        if run.metrics is None:
            raise SystemExit(f"error: {run.place} {run.problem}")
        for title, (task, subset, metric) in CELLS.items():
            values[title].append(float(run.metrics[task][subset][metric]))
    return values


def measure(experiment: Experiment) -> dict[str, Any]:
    study = Study(experiment, "masks", [EXACT], "+experiment=real_text")
    start = f"start={study.base.artifacts['proxy']}"  # the proxy is the uncensored model of its seed
    curves: dict[str, dict[float, dict[str, list[float]]]] = {name: {} for name in POOLINGS.values()}
    for limit in LIMITS:
        chosen = (f"selection.limit={limit}", f"selection.quantile={1 - limit / 2}")
        runs = experiment.sweep(f"limit {limit}", TUNED, start, *chosen)
        for pooling, name in POOLINGS.items():
            curves[name][limit] = cells([run for run in runs if run.overrides["pooling"] == pooling])
    student = LISTS["variants"]["amortised from 5 %"]
    rows = {
        "no mask": cells([experiment.run("no mask", TUNED, start, "method=none", "pooling=none", "seed=0")]),
        **{name: points[0.02] for name, points in curves.items()},
        "amortised from 5 %": cells(experiment.sweep("amortised", TUNED, start, *student, "pooling=none")),
    }
    for name, mask in other_masks(study).items():
        chosen = (f"paths.mask={mask}", "pooling=none", "seed=0")
        rows[name] = cells([experiment.run(name, TUNED, start, *chosen)])
    x, y = "benign perplexity", "toxic fraction, toxic prompts"
    plot_trade_off(
        {name: [(f"{limit:.1%}", cell[x], cell[y]) for limit, cell in points.items()]
         for name, points in curves.items()},
        experiment.output / "frontier.png", labels=(x, y),
    )  # fmt: skip
    last = runs[-1]
    return {
        "epochs": last.config["optim"]["epochs"],
        "penalty": last.config["objective"]["penalty"],
        "classifier": read_manifest(last.artifacts["classifier.toxicity"])["facts"]["name"],
        "rows": rows,
        "curves": {name: {f"{limit:.1%}": cell for limit, cell in points.items()} for name, points in curves.items()},
        "figures": {"rows": rows, "over limits": curves},
    }


if __name__ == "__main__":
    publish(__file__, measure, page="detoxification.md")
