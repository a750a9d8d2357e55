"""Linear datamodeling score (Park et al., 2023): do sums of scores foretell what training on half of a corpus does?

    python experiments/attribution_quality/datamodeling.py [render=true] [override ...]

Trains the tiny model on random halves of the blocks of the built-in sample and measures what the scores are the
derivative of: the mean loss of the toxic continuations less that of the others. A scorer foretells that this falls with
the sum of the scores of the blocks that were trained on.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ifguide.evaluation.token_baselines import LEXICAL
from ifguide.report.experiment import Experiment, publish
from ifguide.stages.study import Study
from ifguide.statistics import spearman, spearman_difference, spearman_interval

LISTS = yaml.safe_load(Path(__file__).with_name("variants.yaml").read_text(encoding="utf-8"))
HALVES, SEEDS = 32, (0, 1)
OTHER = 1000  # seeds that no proxy has


def trained_contrasts(study: Study, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Mean loss of toxic queries less that of the others, [seeds, halves], kept in the workspace one by one."""
    toxic = np.array([query.toxic for query in study.queries])

    def contrast(seed: int, half: int) -> float:
        model, blocks = replace(study.part("proxy"), seed=OTHER + seed), f"half {half} of {len(rows)}"
        given = {"model": model, "seed": OTHER + seed, "optim": study.part("proxy_optim"), "blocks": blocks}
        losses = study.query_losses(study.queries, **given, rows=rows[half])
        return float(losses[toxic].mean() - losses[~toxic].mean())

    return np.array([[contrast(seed, half) for half in range(len(rows))] for seed in SEEDS])


def measure(experiment: Experiment) -> dict[str, Any]:
    names, halves = LISTS["datamodeling"], int(experiment.options["halves"])
    known = LISTS["variants"] | {name: ["pooling=none", *made] for name, made in LISTS["directions"].items()}
    study = Study(experiment, "datamodeling", {name: known[name] for name in names})
    rng, blocks = np.random.default_rng(0), len(study.split)
    rows = [np.sort(rng.permutation(blocks)[: blocks // 2]) for _ in range(halves)]
    actual, scores, foretold = trained_contrasts(study, rows), {}, {}
    for name, values in ({name: study.scores(name) for name in names} | study.baselines()).items():
        foretold[name] = -np.array([np.asarray(values, dtype=np.float64)[half].sum() for half in rows])
        low, high = spearman_interval(foretold[name], actual.mean(0), seed=rng)
        scores[name] = {"value": spearman(foretold[name], actual.mean(0)), "interval": [low, high]}
    of_words = {name: spearman_difference(foretold[name], foretold[names[0]], actual.mean(0)) for name in LEXICAL}
    between = [spearman(actual[a], actual[b]) for a in range(len(SEEDS)) for b in range(a)]
    return {
        "halves": halves, "blocks": blocks, "seeds": len(SEEDS), "ceiling": float(np.mean(between)), "scores": scores,
        "exact": names[0], "figures": {name: score["value"] for name, score in scores.items()},
        "lexical": {name: [difference, *interval] for name, (difference, interval) in of_words.items()},
    }  # fmt: skip


if __name__ == "__main__":
    publish(__file__, measure, page="datamodeling.md", halves=str(HALVES))
