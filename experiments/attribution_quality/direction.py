"""What makes a good direction? Damping, curvature and conjugate gradients, by several yardsticks.

    python experiments/attribution_quality/direction.py [sizes=real_text,sample] [names=...] [seeds=1,2]
        [render=true] [override ...]

Directions (`variants.yaml`) are made of half of the queries. Measured are what human spans say of the scores, alone and
pooled, and per-token QLD: the uncensored model is trained on, without the loss of the 1 % of tokens with the highest
scores; how much more the toxic continuations of the other half then cost it than after leaving out random tokens.
On real text also whether sums of scores tell apart short texts of the same words (HateCheck, Bias Madlibs).
Which directions on which corpus, and from which seeds, `judged` says, or `names` (parted by semicolons) and `seeds`.
Real text is a fifth of `+experiment=real_text`, with the proxy of the whole.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ifguide.api import WORDS_IN_CONTEXT
from ifguide.corpus.queries import halves
from ifguide.evaluation.contrasts import contrast_quality, read_contrasts
from ifguide.influence.store import open_scores
from ifguide.influence.top import TopTokens
from ifguide.report.attribution import Estimate, plot_intervals
from ifguide.report.experiment import Experiment, publish
from ifguide.stages.influence import Mask, PooledScores
from ifguide.stages.stage import Existing
from ifguide.stages.study import Scores, Study
from ifguide.statistics import paired_difference
from ifguide.workspace import as_override, read_manifest

LISTS = yaml.safe_load(Path(__file__).with_name("variants.yaml").read_text(encoding="utf-8"))
HALF = "classifier@classifiers.toxicity=from_queries"  # a judge takes the other half
TOP = 0.01  # of the tokens, left out
FIFTH = "data.weights={brown: .1, reuters: .05, imdb: .02, toxic_spans: .12, davidson: .02}"
Losses = NDArray[np.float64]  # of the continuations that are measured, [seeds, queries]
PRECISIONS = [f"precision_at_{share}" for share in (0.005, 0.01, 0.02, 0.05)]


def corpus(experiment: Experiment, size: str) -> list[str]:
    """Overrides of the corpus and of its proxy."""
    if size == "sample":
        return []
    made = experiment.run("proxy", "+experiment=real_text", "stage=proxy").artifacts
    return ["+experiment=real_text", FIFTH, f"data.tokenizer.path={as_override(made['data'] / 'tokenizer')}",
            f"proxy.pretrained={as_override(made['proxy'])}", "proxy_optim.epochs=0"]  # fmt: skip


def left_out(study: Study, part: float, scores: Existing, seeds: Sequence[int]) -> Losses:
    """Of the other half's toxic continuations, after training on for a part of a pass without the top tokens."""
    data, start = study.existing("data", "data"), study.existing("proxy", "model")
    mask = Mask(scores=scores, data=data, behaviours=["toxicity"], selection=TopTokens(limit=TOP))
    toxic = [query for query in halves(study.queries)[1] if query.toxic]
    optim = replace(study.part("proxy_optim"), epochs=part, learning_rate=1e-3)
    shared = {"start": start, "mask": mask, "model": study.part("proxy"), "optim": optim}
    return np.array([study.query_losses(toxic, seed=seed, **shared) for seed in seeds])


def pooled(study: Study, scores: Existing) -> tuple[Existing, Scores]:
    made = study.build(PooledScores(scores=scores, data=study.existing("data", "data"), pooling=WORDS_IN_CONTEXT))
    return Existing(folder=made.path, stage="pooled"), open_scores(made.path)[0]


def qld(ours: Losses, random: Losses, first: Losses) -> dict[str, Any]:
    """QLD in nats per continuation, its difference from that of the first direction, and the ratio of the two."""
    rise, other = paired_difference(ours, random), paired_difference(first, random)
    against = paired_difference(ours, first)
    return {
        "value": rise.value, "interval": rise.interval, "ratio": rise.value / other.value,
        "difference": against.value, "difference_interval": against.interval,
    }  # fmt: skip


def facts(study: Study, name: str) -> dict[str, Any]:
    """What conjugate gradients say, and the seconds of everything up to the scores."""
    found = read_manifest(study.direction(name))
    residuals = found["facts"].get("residuals")
    return {
        "seconds": found["seconds"],
        "scoring_seconds": read_manifest(study.runs[name].artifacts["scores"])["seconds"],
        "curvature_ratio": found["facts"].get("curvature_ratio"),
        "residuals": residuals and [residuals[0], residuals[-1]],
        "steps": found["facts"].get("steps"),
    }


def over_damping(study: Study, rows: dict[str, Any]) -> dict[str, list[Estimate]]:
    """Of EK-FAC and of what refines it, alone and pooled: δ, QLD and its interval, in the order of δ."""
    found: dict[str, list[Estimate]] = {}
    for name, row in rows.items():
        changed = {override.split("=")[0] for override in LISTS["directions"][name]}
        if changed <= {"refine", "curvature.damping"}:
            way, damping = "refined" if "refine" in changed else "EK-FAC", study.part("curvature", name).damping
            for title, one in ((way, row["alone"]["qld"]), (f"{way}, pooled", row["pooled"]["qld"])):
                found.setdefault(title, []).append((damping, one["value"], *one["interval"]))
    return {name: sorted(curve) for name, curve in found.items()}


def judge(experiment: Experiment, size: str, names: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Directions on one corpus; the others are compared with the first."""
    shown, part, first = {name: LISTS["directions"][name] for name in names}, LISTS["judged"][size]["part"], names[0]
    study = Study(experiment, f"direction {size}", shown, *corpus(experiment, size), "pooling=none", HALF)
    noise = np.random.default_rng(0).random(study.split.shape, dtype=np.float32)
    random = Existing(folder=study.baseline("random tokens", lambda: noise).path, stage="baseline")
    at_random, losses, rows = left_out(study, part, random, seeds), {}, {}
    for name in names:
        scores = Existing(folder=study.runs[name].artifacts["scores"], stage="scores")
        kinds = {"alone": (scores, study.scores(name)), "pooled": pooled(study, scores)}
        rows[name] = facts(study, name)
        for kind, (made, values) in kinds.items():
            losses[name, kind] = left_out(study, part, made, seeds)
            found = qld(losses[name, kind], at_random, losses[first, "alone"])
            rows[name][kind] = study.quality(values) | {"qld": found}
    contrasts = read_contrasts(Path(study.configuration().paths.datasets)) if size == "real_text" else {}
    cases = {}
    for title, contrast in contrasts.items():
        ids, inside, _ = study.encode(contrast.texts)
        sums = study.text_sums(names, ids, inside)
        cases[title] = {name: contrast_quality(each, contrast) for name, each in sums.items()}
    labels = ("δ, of the mean eigenvalue of each layer", "QLD, nats per continuation")
    curves = over_damping(study, rows)
    plot_intervals(curves, experiment.output / f"damping_{size}.png", labels=labels, log=True)
    queries = {"direction": len(halves(study.queries)[0]), "measured": at_random.shape[1]}
    shared = {"first": first, "seeds": seeds, "tokens": int(noise.size), "queries": queries}
    return {**shared, "rows": rows, "over_damping": curves, "cases": cases}


def measure(experiment: Experiment) -> dict[str, Any]:
    asked, parts = experiment.options, {}
    for size in asked["sizes"].split(","):
        usual = LISTS["judged"][size]
        names = asked["names"].split(";") if asked["names"] else usual["names"]
        seeds = [int(seed) for seed in asked["seeds"].split(",")] if asked["seeds"] else usual["seeds"]
        parts[size] = judge(experiment, size, names, seeds)
    figures = {size: {name: {"qld": row["alone"]["qld"]["value"], "pooled qld": row["pooled"]["qld"]["value"],
                             **{key: row["pooled"][key] for key in PRECISIONS}}
                      for name, row in part["rows"].items()} for size, part in parts.items()}  # fmt: skip
    return {"parts": parts, "figures": figures}


if __name__ == "__main__":
    publish(__file__, measure, page="direction.md", sizes="real_text,sample", names="", seeds="")
