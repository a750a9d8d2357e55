"""How many blocks is curvature to be fitted on, how is it to be damped, and which layers can be left out?

    python experiments/benchmarks/curvature.py [override ...]

Overrides are those of run.py, as in `+experiment=real_text`; without them, the built-in sample and its proxy. For each
number of blocks: rank correlation of the final token scores, and overlap of their masks, with those of a fit on twice
as many blocks (which holds the smaller sample). For each strategy and damping: the same against the default, and how
well the scores find the tokens that are known to be toxic. For restricted layers: the same (what scoring then costs is
in scoring.py).
Scores are of the same 512 blocks throughout. Stages that a run has built are found in its workspace.
"""

import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from ifguide.corpus.masks import jaccard
from ifguide.corpus.queries import encode_queries
from ifguide.evaluation.attribution import known_tokens, precision_at
from ifguide.influence.curvature import Curvature, CurvatureError, load_factors, save_factors
from ifguide.influence.direction import precondition_direction, query_gradient
from ifguide.influence.scorers import FiniteDifference
from ifguide.influence.scoring import prepare_scorer, sample_rows, score_blocks
from ifguide.models import tracked_layers
from ifguide.pipeline import Pipeline
from ifguide.statistics import roc_auc, spearman

CONF = Path(__file__).parents[2] / "conf"
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048)
DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SCORED = 512


class Study:
    """Scores of the same blocks under different curvatures."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self.pipeline, self.folder = pipeline, folder
        self.split, self.batch = pipeline.corpus.split("train"), pipeline.cfg.influence.batch_size
        self.rows = sample_rows(len(self.split), SCORED, 1)
        self.ids = self.split.tokens(self.rows)
        queries = next(iter(pipeline.queries.values()))
        encoded = encode_queries(queries, pipeline.corpus.tokenizer, self.split.block_length)
        self.gradients = query_gradient(self.proxy(), encoded, batch_size=self.batch)

    def proxy(self):
        return self.pipeline._load(self.pipeline.proxy(), "proxy")

    def fit(self, strategy: str, blocks: int):
        start = time.monotonic()
        rows = sample_rows(len(self.split), blocks, 0)
        curvature = Curvature(strategy, blocks=blocks)
        save_factors(
            curvature.fit(self.proxy(), self.split.tokens(rows), batch_size=self.batch, seed=0, progress=False),
            self.folder,
        )
        return load_factors(self.folder), time.monotonic() - start

    def score(self, curvature: Curvature, factors, layers: Sequence[str] | None = None) -> np.ndarray:
        model = self.proxy()
        gradients = {n: g for n, g in self.gradients.items() if layers is None or n.rpartition(".")[0] in layers}
        direction = precondition_direction(model, gradients, factors, curvature)
        scorer = prepare_scorer(
            FiniteDifference(), model, [direction], lambda rows: self.ids[rows], (1, *self.ids.shape), 0
        )
        return score_blocks(scorer, self.ids, batch_size=self.batch, device=model.device)[0]

    def mask(self, scores: np.ndarray):
        return self.pipeline.selection(scores).mask

    def agreement(self, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
        return {"spearman": spearman(a[:, 1:], b[:, 1:]), "mask_jaccard": jaccard(self.mask(a), self.mask(b))}

    def quality(self, scores: np.ndarray) -> dict[str, float]:
        if self.split.annotation is None:
            return {}
        known = known_tokens(self.split)[self.rows][:, 1:].reshape(-1)
        ours = scores[:, 1:].reshape(-1)[known]
        toxic = self.split.annotation[self.rows][:, 1:].reshape(-1)[known]
        return {"roc_auc": roc_auc(ours, toxic), "precision_at_0.01": precision_at(ours, toxic, 0.01)}


def table(rows: list[dict]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    for row in rows:
        cells = (f"{row[key]:.4g}" if isinstance(row.get(key), float) else str(row.get(key, "–")) for key in keys)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    overrides = [
        *sys.argv[1:],
        "stage=scores",
        "method=ifguide",
        "trainer.progress=false",
        "paths.run=outputs/curvature",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        pipeline = Pipeline(compose("config", overrides=overrides))
    default = pipeline.curvature
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(sys.stderr):  # what is printed is the result
            study = Study(pipeline, Path(folder))
        counts = [blocks for blocks in BLOCKS if blocks <= len(study.split)]
        scores, seconds = {}, {}
        for blocks in counts:
            factors, seconds[blocks] = study.fit("ekfac", blocks)
            scores[blocks] = study.score(default, factors)
        rows = [
            {"blocks": n, "against": 2 * n, **study.agreement(scores[n], scores[2 * n]), **study.quality(scores[n]),
             "seconds": seconds[n]}
            for n in counts if 2 * n in scores
        ]  # fmt: skip
        print(f"\nEK-FAC, relative damping {default.damping}, {len(study.split)} training blocks\n\n{table(rows)}\n")
        strategies = []
        reference = scores[max(n for n in counts if n <= default.blocks)]
        for strategy in ("ekfac", "kfac", "diagonal", "identity"):
            factors, _ = study.fit(strategy, default.blocks)
            for damping in DAMPINGS if strategy != "identity" else (0.0,):
                row: dict = {"strategy": strategy, "damping": damping}
                try:
                    ours = study.score(Curvature(strategy, damping=damping), factors)
                    row |= study.agreement(ours, reference) | study.quality(ours)
                except CurvatureError as error:
                    row["error"] = str(error)
                strategies.append(row)
        factors, _ = study.fit("ekfac", default.blocks)
        restricted = []
        half = study.proxy().config.num_hidden_layers // 2
        for name, options in {
            "all": {},
            "mlp": {"match": "mlp"},
            f"last {half} blocks": {"last_blocks": half},
            f"mlp of last {half} blocks": {"match": "mlp", "last_blocks": half},
            "last block": {"last_blocks": 1},
        }.items():
            ours = study.score(default, factors, list(tracked_layers(study.proxy(), **options)))
            agreement = study.agreement(ours, reference) | study.quality(ours)
            restricted.append({"layers": name, **agreement})
    print(f"Strategies and relative dampings, fitted on {default.blocks} blocks\n\n{table(strategies)}\n")
    print(f"Layers, with finite differences\n\n{table(restricted)}\n")
    chosen = next(
        row for row in rows if row["blocks"] == max(r["blocks"] for r in rows if r["blocks"] <= default.blocks)
    )
    summary = {key: chosen[key] for key in ("blocks", "spearman", "mask_jaccard")}
    print(json.dumps({**summary, "by_blocks": rows, "by_damping": strategies, "by_layers": restricted}))


if __name__ == "__main__":
    main()
