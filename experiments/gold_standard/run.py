"""How near do scorers come to the derivative of training itself (MAGIC; Ilyas & Engstrom, 2025)?

    python experiments/gold_standard/run.py [seed=0] [random=3] [dampings=.1,1,10,100] [render=true] [override ...]

Trains the model of `+experiment=gold_standard` and differentiates what it trained to: the loss of toxic continuations,
and that less the loss of the others, by the weight of each training token's loss. Scores of the trained model are
compared with that, and so is what a training without the tokens that they rank highest does. `dampings` are those that
EK-FAC and refined directions are compared at, beside the usual one.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call
from tqdm.auto import tqdm

import ifguide
from ifguide.corpus.blocks import Corpus, Split
from ifguide.corpus.padding import pad
from ifguide.corpus.queries import encode_queries, halves
from ifguide.evaluation.token_baselines import BM25, WORD_LIST, lexical_scores
from ifguide.influence.conjugate_gradients import ConjugateGradients
from ifguide.influence.curvature import Curvature
from ifguide.influence.metagradient import AdamW, Parameters, WeightedTraining
from ifguide.influence.scorers import Positional
from ifguide.objectives.language_modeling import token_losses
from ifguide.report.experiment import Experiment, publish
from ifguide.stages.configuration import make, saved
from ifguide.statistics import spearman
from ifguide.training.data import rows_of_step

ROOT_EPSILON = 1e-9  # under the root of AdamW's denominator: without it, weights that hardly move have no derivative
DROPPED = 0.01  # of all tokens
MAGIC, EXACT = "metagradient", "exact (`jvp`), EK-FAC"
Scores = NDArray[np.floating[Any]]


def trained(part: Any, corpus: Corpus, seed: int) -> tuple[Any, ...]:
    """The training, its objectives and initial weights, the trained model, and scores by metagradients, [2, N, T]."""
    split, optim = corpus.split("train"), part("proxy_optim")
    encoded = encode_queries(part("behaviours.toxicity"), corpus.tokenizer, split.block_length)
    model = replace(part("proxy"), seed=seed).build(corpus.vocabulary, corpus.end_of_text).eval()

    def losses(parameters: Parameters, ids_BT: Tensor) -> Tensor:
        logits = functional_call(model, dict(parameters), (ids_BT,), {"use_cache": False}).logits
        return token_losses(logits, ids_BT)

    steps, given = optim.steps(len(split)), optim.optimizer.keywords
    training = WeightedTraining(
        losses=losses, ids_NT=torch.from_numpy(split.tokens(slice(0, None))),
        rows=[rows_of_step(step, seed=seed, batch_size=optim.batch_size, blocks=len(split)) for step in range(steps)],
        optimizer=AdamW(
            rates=[optim.learning_rate * optim.schedule.rate(step, steps) for step in range(steps)],
            betas=tuple(given["betas"]), epsilon=given["eps"], root_epsilon=ROOT_EPSILON,
            weight_decay=optim.weight_decay, clip=optim.clip,
        ),
    )  # fmt: skip

    ids, inside = (
        pad(sequences)[0] for sequences in ([q.input_ids for q in encoded], [q.continuation for q in encoded])
    )
    shows = torch.tensor([query.toxic for query in encoded])

    def objectives(parameters: Parameters) -> Tensor:
        """Mean loss of toxic continuations less that of the others, and the former alone."""
        summed = (losses(parameters, ids) * inside).sum(1)
        return torch.stack([summed[shows].mean() - summed[~shows].mean(), summed[shows].mean()])

    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    last, found = training.metagradients(start, torch.ones(split.shape), objectives, progress=tqdm)
    model.load_state_dict(last, strict=False)
    return training, objectives, start, model, -found.numpy()  # learning a token makes the loss fall: a positive score


def directions_of(
    part: Any, model: Any, corpus: Corpus, split: Split, dampings: Sequence[float]
) -> dict[str, list[dict[str, Tensor]]]:
    """Name → the direction of all queries, and those of two halves of them."""
    queries, curvature = part("behaviours.toxicity"), part("curvature")

    def fit(curvature: Curvature) -> Any:
        return ifguide.fit_curvature(model, split, curvature=curvature, influence=part("influence"), progress=False)

    def directions(fitted: Any, refine: ConjugateGradients | None = None) -> list[dict[str, Tensor]]:
        given = {"refine": refine, "blocks": split if refine else None}
        texts = [[[(q.prompt, q.continuation) for q in some if q.toxic is shows] for shows in (True, False)]
                 for some in (queries, *halves(queries))]  # fmt: skip
        return [ifguide.make_direction(model, corpus.tokenizer, fitted, positive=positive, negative=negative, **given)
                for positive, negative in texts]  # fmt: skip

    fitted = fit(curvature)
    found = {EXACT: directions(fitted), "exact (`jvp`), no curvature": directions(fit(Curvature("identity")))}
    for damping in dampings:  # which acts when factors are applied
        damped = replace(fitted, curvature=replace(curvature, damping=damping))
        found[f"exact (`jvp`), EK-FAC, δ = {damping:g}"] = directions(damped)
        found[f"exact (`jvp`), refined, δ = {damping:g}"] = directions(damped, ConjugateGradients())
    return found


def scores_of(
    part: Any, model: Any, corpus: Corpus, split: Split, dampings: Sequence[float]
) -> tuple[dict[str, Scores], dict[str, float]]:
    """Scores of the trained model and of words; how much those along directions of halves of the queries correlate."""
    directions, by_halves = {}, {}
    for name, (whole, *parts) in directions_of(part, model, corpus, split, dampings).items():
        directions[name] = whole
        both = ifguide.score(model, split, {str(half): one for half, one in enumerate(parts)})
        by_halves[name] = float(np.corrcoef([scores[:, 1:].ravel() for scores in both.values()])[0, 1])
    found, one = ifguide.score(model, split, directions), {"positional, aligned": directions[EXACT]}
    found |= ifguide.score(model, split, one, scorer=Positional())
    found |= ifguide.pool({"pooled by word and context": found[EXACT]}, split, corpus.tokenizer)
    lexical = lexical_scores(split, corpus.tokenizer, part("behaviours.toxicity"))
    return found | {name: lexical[name]() for name in (WORD_LIST, BM25)}, by_halves


def measure(experiment: Experiment) -> dict[str, Any]:
    run, seed = experiment.run("data", "+experiment=gold_standard"), int(experiment.options["seed"])
    corpus, part = Corpus(run.artifacts["data"]), partial(make, saved(Path(run.place)))
    split = corpus.split("train")
    training, objectives, start, model, (gold, toxic) = trained(part, corpus, seed)
    other = trained(part, corpus, seed + 1)[-1][0]
    scores: dict[str, Scores] = {MAGIC: gold, f"{MAGIC} of the toxic loss alone": toxic, f"{MAGIC}, other seed": other}
    dampings = [float(damping) for damping in experiment.options["dampings"].split(",")]
    others, by_halves = scores_of(part, model, corpus, split, dampings)
    scores |= others
    whole = objectives(dict(model.named_parameters())).detach()
    rng, count = np.random.default_rng(seed), round(DROPPED * gold[:, 1:].size)

    def top(values: Scores) -> NDArray[np.int64]:
        values = values[:, 1:].ravel()
        return np.lexsort((rng.random(values.size), values))[-count:]  # ties in any order

    def rises(dropped: NDArray[np.int64]) -> NDArray[np.float64]:
        kept = np.ones(split.shape, dtype=np.float32)
        kept[dropped // (split.block_length - 1), 1 + dropped % (split.block_length - 1)] = 0
        return (objectives(training.train(start, torch.from_numpy(kept))).detach() - whole).double().numpy()

    drawn = [rises(rng.permutation(gold[:, 1:].size)[:count]) for _ in range(int(experiment.options["random"]))]
    chance, best, rows = np.mean(drawn, axis=0), set(top(gold).tolist()), {}
    for name, values in scores.items():
        chosen = top(values)
        contrast, loss = (rises(chosen) - chance).tolist()
        rows[name] = {"spearman": spearman(values[:, 1:], gold[:, 1:]), "contrast": contrast, "toxic": loss,
                      "overlap": len(best & set(chosen.tolist())) / count,
                      "by_halves": by_halves.get(name)}  # fmt: skip
    return {
        "magic": MAGIC, "dropped": DROPPED, "rows": rows, "random": [one.tolist() for one in drawn], "figures": rows,
        "parameters": sum(weight.numel() for weight in start.values()), "steps": len(training.rows),
        "tokens": gold.size, "losses": whole.tolist(), "root_epsilon": ROOT_EPSILON,
    }  # fmt: skip


if __name__ == "__main__":
    publish(__file__, measure, seed="0", random="3", dampings=".1,1,10,100")
