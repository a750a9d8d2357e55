"""Linear datamodeling score (Park et al., 2023): do sums of scores foretell what training on half of a corpus does?

    python experiments/attribution_quality/datamodeling.py [render=true] [override ...]

Trains the tiny model on random halves of the blocks of the built-in sample and measures what the scores are the
derivative of: the mean loss of the toxic continuations less that of the others. A scorer foretells that this falls with
the sum of the scores of the blocks that were trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from numpy.typing import NDArray

from ifguide.corpus.blocks import Split
from ifguide.corpus.documents import Query
from ifguide.corpus.queries import encode_queries
from ifguide.evaluation.likelihood import continuation_likelihoods
from ifguide.evaluation.token_baselines import LEXICAL
from ifguide.models import ModelSettings
from ifguide.objectives import LanguageModeling
from ifguide.report.experiment import Experiment, publish
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.stages.study import Study
from ifguide.statistics import spearman, spearman_difference, spearman_interval
from ifguide.training.context import TrainingContext
from ifguide.training.fit import train
from ifguide.training.optimization import Optimization
from ifguide.training.trainer import TrainerSettings

LISTS = yaml.safe_load(Path(__file__).with_name("variants.yaml").read_text(encoding="utf-8"))
HALVES, SEEDS = 32, (0, 1)
OTHER = 1000  # seeds that no proxy has


@dataclass(frozen=True, kw_only=True, eq=False)
class HalfModel(Stage):
    """A model trained on half of the blocks, of which only the losses of the queries are kept."""

    name: ClassVar[str] = "datamodel"
    version: ClassVar[int] = 2

    data: Stage = made_from()
    model: ModelSettings = setting()
    optim: Optimization = setting()
    queries: Sequence[Query] = setting()
    half: int = setting()
    halves: int = setting()
    rows: NDArray[np.int64] = speed()  # decided by the half
    trainer: TrainerSettings = speed()

    def build(self, folder: Path, inputs: Inputs) -> dict[str, float]:
        corpus = inputs.corpus()
        split, model = corpus.split("train"), self.model.build(corpus.vocabulary, corpus.end_of_text)
        train(
            model, LanguageModeling(), self.optim, TrainingContext(self.trainer, folder), seed=self.model.seed,
            blocks=Split(split.blocks.select(self.rows), split.documents, None), mask=None, validation=None,
        )  # fmt: skip
        encoded = encode_queries(self.queries, corpus.tokenizer, split.block_length, model.config)
        losses = continuation_likelihoods(model, encoded, batch_size=64, description="Queries").losses
        toxic = np.array([query.toxic for query in encoded])
        return {"contrast": float(losses[toxic].mean() - losses[~toxic].mean())}


def trained_contrasts(study: Study, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """[seeds, halves], kept in the workspace one by one."""
    shared = {"data": study.existing("data", "data"), "optim": study.part("proxy_optim"), "queries": study.queries,
              "trainer": study.part("trainer"), "halves": len(rows)}  # fmt: skip
    models = [replace(study.part("proxy"), seed=OTHER + seed) for seed in SEEDS]
    stages = [[HalfModel(model=model, half=half, rows=blocks, **shared) for half, blocks in enumerate(rows)]
              for model in models]  # fmt: skip
    return np.array([[study.build(stage).manifest["facts"]["contrast"] for stage in row] for row in stages])


def measure(experiment: Experiment) -> dict[str, Any]:
    names, halves = LISTS["datamodeling"], int(experiment.options["halves"])
    study, rng = (
        Study(experiment, "datamodeling", {name: LISTS["variants"][name] for name in names}),
        np.random.default_rng(0),
    )
    blocks = len(study.split)
    rows = [np.sort(rng.permutation(blocks)[: blocks // 2]) for _ in range(halves)]
    actual, scores, foretold = trained_contrasts(study, rows), {}, {}
    for name, values in ({name: study.scores(name) for name in names} | study.baselines()).items():
        foretold[name] = -np.array([np.asarray(values, dtype=np.float64)[half].sum() for half in rows])
        low, high = spearman_interval(foretold[name], actual.mean(0), seed=rng)
        scores[name] = {"value": spearman(foretold[name], actual.mean(0)), "interval": [low, high]}
    of_words = {name: spearman_difference(foretold[name], foretold[names[0]], actual.mean(0))
                for name in LEXICAL}  # fmt: skip
    between = [spearman(actual[a], actual[b]) for a in range(len(SEEDS)) for b in range(a)]
    return {
        "halves": halves,
        "blocks": blocks,
        "seeds": len(SEEDS),
        "ceiling": float(np.mean(between)),
        "scores": scores,
        "exact": names[0],
        "lexical": {name: [difference, *interval] for name, (difference, interval) in of_words.items()},
        "figures": {name: score["value"] for name, score in scores.items()},
    }


if __name__ == "__main__":
    publish(__file__, measure, page="datamodeling.md", halves=str(HALVES))
