"""Linear datamodeling score (Park et al., 2023): do sums of scores foretell what training on half of a corpus does?

    python experiments/attribution_quality/datamodeling.py [override ...]

Trains the tiny model on random halves of the blocks of the built-in sample and measures what the scores are the
derivative of: the mean loss of the toxic continuations less that of the others. A scorer foretells that this falls with
the sum of the scores of the blocks that were trained on. Writes datamodeling.md, which `run.py` beside this file takes
into its README.
"""

import json
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from study import Study
from transformers import PreTrainedModel

from ifguide.corpus.blocks import Split
from ifguide.corpus.queries import EncodedQuery, encode_queries
from ifguide.objectives.language_modeling import token_losses
from ifguide.pipeline.influence import UNCENSORED
from ifguide.statistics import spearman, spearman_interval
from ifguide.training.fit import train

HALVES, SEEDS = 32, (0, 1)
OTHER = 1000  # seeds that no proxy has
VARIANTS = (
    "exact (`jvp`)",
    "exact, diagonal curvature",
    "exact, no curvature",
    "positional, aligned",
    "positional, as published",
    "pooled by type and context",
    "pooled by word and context",
    "amortised from 10 %",
)
TEXT = """
## Do sums of scores foretell training? (linear datamodeling score)

{halves} random halves of the {blocks:,} blocks of the built-in sample, the tiny model trained on each from {seeds}
seeds, and what the scores are the derivative of: mean loss of toxic continuations less that of the others. Spearman
correlation over the halves between it (mean over seeds) and less the sum of the scores of a half (95 % interval over
halves). Between one seed and the other that difference itself correlates {ceiling:.3f}: training is noisy.
`python experiments/attribution_quality/datamodeling.py{overrides}`

| scores | linear datamodeling score |
|---|---|
{rows}
"""


@torch.no_grad()
def contrast(model: PreTrainedModel, queries: list[EncodedQuery], batch_size: int = 64) -> float:
    """Mean loss of the toxic continuations less that of the others (sums over a continuation's tokens)."""
    model.eval()
    losses: dict[bool, list[float]] = {True: [], False: []}
    ordered = sorted(queries, key=lambda query: len(query.input_ids))
    for first in range(0, len(ordered), batch_size):
        batch = ordered[first : first + batch_size]
        ids = torch.zeros(len(batch), len(batch[-1].input_ids), dtype=torch.long)
        inside = torch.zeros(ids.shape)
        for row, query in enumerate(batch):
            ids[row, : len(query.input_ids)] = torch.from_numpy(query.input_ids)
            inside[row, : len(query.input_ids)] = torch.from_numpy(query.continuation.astype(np.float32))
        sums = (token_losses(model(input_ids=ids, use_cache=False).logits, ids) * inside).sum(1)
        for query, value in zip(batch, sums.tolist(), strict=True):
            losses[query.toxic].append(value)
    return statistics.mean(losses[True]) - statistics.mean(losses[False])


def trained_contrasts(study: Study, rows: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """[seeds, halves], kept in the workspace one by one."""
    base, split = study.base, study.split
    queries = encode_queries(next(iter(base.queries.values())), study.tokenizer, split.block_length)
    optimization = base.optimizations["proxy"][1]

    def one(seed: int, half: int) -> float:
        def build(directory: Path) -> dict[str, float]:
            vocabulary, end_of_text = base.corpus.vocabulary, study.tokenizer.eos_token_id
            model = instantiate(base.cfg.proxy, seed=OTHER + seed, vocabulary=vocabulary, end_of_text=end_of_text)
            train(
                model, instantiate(UNCENSORED), optimization, base.hardware, directory=directory, seed=OTHER + seed,
                blocks=Split(split.blocks.select(rows[half]), split.documents, None), mask=None, validation=None,
            )  # fmt: skip
            return {"contrast": contrast(model, queries)}

        settings = {"half": half, "halves": HALVES, "seed": seed, **base._settings("proxy_optim")}
        settings |= {"model": base._settings("proxy"), "queries": base._settings("behaviours")}
        artifact = base.workspace.build(
            "datamodel", version=1, settings=settings, inputs={"data": base.data()}, builder=build
        )
        return artifact.manifest["facts"]["contrast"]

    result = np.empty((len(SEEDS), HALVES))
    for s, seed in enumerate(SEEDS):
        for half in range(HALVES):
            result[s, half] = one(seed, half)
            print(f"seed {seed}, half {half}: {result[s, half]:.4f}", flush=True)
    return result


def main() -> None:
    overrides = sys.argv[1:]
    study = Study(*overrides, variants=VARIANTS)
    blocks = len(study.split)
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.permutation(blocks)[: blocks // 2]) for _ in range(HALVES)]
    actual = trained_contrasts(study, rows)
    scores = {name: study.scores(name) for name in VARIANTS} | study.rivals()
    lines, figures = [], {}
    for name, values in scores.items():
        per_block = np.asarray(values, dtype=np.float64).sum(1)
        foretold = -np.array([per_block[half].sum() for half in rows])
        value = spearman(foretold, actual.mean(0))
        low, high = spearman_interval(foretold, actual.mean(0), seed=rng)
        figures[name] = value
        lines.append(f"| {name} | {value:.3f} ({low:.3f}–{high:.3f}) |")
    pairs = [(a, b) for a in range(len(SEEDS)) for b in range(a)]
    text = TEXT.format(
        halves=HALVES,
        blocks=blocks,
        seeds=len(SEEDS),
        ceiling=statistics.mean(spearman(actual[a], actual[b]) for a, b in pairs),
        overrides="".join(f" {o}" for o in overrides if not o.startswith(("paths.", "trainer."))),
        rows="\n".join(lines),
    )
    Path(__file__).with_name("datamodeling.md").write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
