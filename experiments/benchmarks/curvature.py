"""How many blocks is curvature to be fitted on, how is it to be damped, and which layers can be left out?

python experiments/benchmarks/curvature.py [override of run.py ...]
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shared import run_stage, seconds, table

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.masks import jaccard
from ifguide.corpus.queries import encode_queries
from ifguide.evaluation.attribution import known_tokens, precision_at
from ifguide.influence.curvature import Curvature
from ifguide.influence.direction import precondition_direction, query_gradient
from ifguide.influence.factors import CurvatureError, by_layer
from ifguide.influence.scorers import FiniteDifference
from ifguide.influence.scoring import BlockSampler, prepare_scorer, sample_rows, score_blocks
from ifguide.models import tracked_layers
from ifguide.report.gather import Run
from ifguide.statistics import roc_auc, spearman

BLOCKS, SCORED, DAMPINGS = (32, 64, 128, 256, 512, 1024, 2048), 512, (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
Scores = NDArray[np.float32]


class Study:
    """Scores of the same blocks under different curvatures."""

    def __init__(self, run: Run, part: Callable[[str], Any]) -> None:
        corpus = Corpus(run.artifacts["data"])
        self.split, self.batch, self.selection = corpus.split("train"), part("influence").batch_size, part("selection")
        self.proxy = lambda: part("proxy").load(run.artifacts["proxy"])
        self.rows = sample_rows(len(self.split), SCORED, 1)
        self.ids = self.split.tokens(self.rows)
        queries, length = part("behaviours.toxicity"), self.split.block_length
        encoded = encode_queries(queries, corpus.tokenizer, length, self.proxy().config)
        self.gradients = query_gradient(self.proxy(), encoded, batch_size=self.batch)

    def fit(self, strategy: str, blocks: int) -> Mapping[str, Any]:
        tokens = self.split.tokens(sample_rows(len(self.split), blocks, 0))
        curvature = Curvature(strategy, blocks=blocks)
        return by_layer(curvature.fit(self.proxy(), tokens, batch_size=self.batch, seed=0, progress=False))

    def score(self, curvature: Curvature, factors: Mapping[str, Any], layers: Sequence[str] | None = None) -> Scores:
        model = self.proxy()
        gradients = {n: g for n, g in self.gradients.items() if layers is None or n.rpartition(".")[0] in layers}
        direction = precondition_direction(model, gradients, factors, curvature)
        sampler = BlockSampler(self.ids.__getitem__, self.ids.shape)
        scorer = prepare_scorer(FiniteDifference(), model, [direction], sampler)
        return score_blocks(scorer, self.ids, batch_size=self.batch, device=model.device)[0]

    def compare(self, ours: Scores, reference: Scores) -> dict[str, float]:
        """Agreement with other scores, and quality where it is known which tokens are toxic."""
        masks = [self.selection(scores).mask for scores in (ours, reference)]
        found = {"spearman": spearman(ours[:, 1:], reference[:, 1:]), "mask_jaccard": jaccard(*masks)}
        if self.split.annotation is None:
            return found
        known = known_tokens(self.split)[self.rows][:, 1:].reshape(-1)
        scores, toxic = (one[:, 1:].reshape(-1)[known] for one in (ours, self.split.annotation[self.rows]))
        return {**found, "roc_auc": roc_auc(scores, toxic), "precision_at_0.01": precision_at(scores, toxic, 0.01)}


def main() -> None:
    warnings.simplefilter("ignore")
    run, part = run_stage(__file__, "proxy", "stage=proxy")
    default, study = part("curvature"), Study(run, part)
    counts = [blocks for blocks in BLOCKS if blocks <= len(study.split)]
    scores, spent = {}, {}
    for blocks in counts:
        factors: list[Any] = []
        spent[blocks] = seconds(lambda blocks=blocks, factors=factors: factors.append(study.fit("ekfac", blocks)))
        scores[blocks] = study.score(default, factors[0])
    by_blocks = [{"blocks": n, "against": 2 * n, **study.compare(scores[n], scores[2 * n]), "seconds": spent[n]}
                 for n in counts if 2 * n in scores]  # fmt: skip
    print(f"\nEK-FAC, relative damping {default.damping}, {len(study.split)} training blocks\n\n{table(by_blocks)}\n")

    fitted_on = max(n for n in counts if n <= default.blocks)
    reference, by_damping, by_layers = scores[fitted_on], [], []
    for strategy in ("ekfac", "kfac", "diagonal", "identity"):
        fitted = study.fit(strategy, default.blocks)
        for damping in DAMPINGS if strategy != "identity" else (0.0,):
            row: dict[str, Any] = {"strategy": strategy, "damping": damping}
            try:
                row |= study.compare(study.score(Curvature(strategy, damping=damping), fitted), reference)
            except CurvatureError as error:
                row["error"] = str(error)
            by_damping.append(row)
    print(f"Strategies and relative dampings, fitted on {default.blocks} blocks\n\n{table(by_damping)}\n")

    fitted, half = study.fit("ekfac", default.blocks), study.proxy().config.num_hidden_layers // 2
    mlp, upper = {"match": "mlp"}, {"last_blocks": half}
    subsets = {"all": {}, "mlp": mlp, f"last {half} blocks": upper, f"mlp of last {half} blocks": mlp | upper}
    for name, options in {**subsets, "last block": {"last_blocks": 1}}.items():
        ours = study.score(default, fitted, list(tracked_layers(study.proxy(), **options)))
        by_layers.append({"layers": name, **study.compare(ours, reference)})
    print(f"Layers, with finite differences\n\n{table(by_layers)}\n")
    chosen = next(row for row in by_blocks if row["blocks"] == min(fitted_on, by_blocks[-1]["blocks"]))
    summary = {key: chosen[key] for key in ("blocks", "spearman", "mask_jaccard")}
    print(json.dumps({**summary, "by_blocks": by_blocks, "by_damping": by_damping, "by_layers": by_layers}))


if __name__ == "__main__":
    main()
