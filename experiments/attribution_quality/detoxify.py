"""Does better attribution detoxify better? Continues a model with the masks of several scores.

    IFGUIDE_DATASETS=... python experiments/attribution_quality/detoxify.py [render=true] [override ...]

Sweeps `+experiment=detoxification` from the uncensored model of `+experiment=real_text`, and masks that other scores
than influence give at the same budget.
"""

from pathlib import Path
from typing import Any

import numpy as np
from study import VARIANTS, Scores, Study

from ifguide.corpus.words import word_log_odds
from ifguide.evaluation.attribution import word_list_scores
<<<<<<< HEAD
from ifguide.report.attribution import plot_trade_off
from ifguide.report.experiment import Experiment, publish
from ifguide.report.gather import Run
from ifguide.stages.influence import Mask
from ifguide.stages.stage import Existing
from ifguide.workspace import read_manifest
=======
from ifguide.influence.store import open_scores
from ifguide.pipeline import Pipeline
from ifguide.report.attribution import plot_trade_off
>>>>>>> main

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


<<<<<<< HEAD
def measure(experiment: Experiment) -> dict[str, Any]:
    study = Study(experiment, "masks", [EXACT], "+experiment=real_text")
    start = f"start={study.base.artifacts['proxy']}"  # the proxy is the uncensored model of its seed
    curves: dict[str, dict[float, dict[str, list[float]]]] = {name: {} for name in POOLINGS.values()}
    for limit in LIMITS:
        chosen = (f"selection.limit={limit}", f"selection.quantile={1 - limit / 2}")
        runs = experiment.sweep(f"limit {limit}", TUNED, start, *chosen)
        for pooling, name in POOLINGS.items():
            curves[name][limit] = cells([run for run in runs if run.overrides["pooling"] == pooling])
    student = VARIANTS["amortised from 5 %"]
    rows = {
        "no mask": cells([experiment.run("no mask", TUNED, start, "method=none", "pooling=none", "seed=0")]),
        **{name: points[0.02] for name, points in curves.items()},
        "amortised from 5 %": cells(experiment.sweep("amortised", TUNED, start, *student, "pooling=none")),
    }
    for name, mask in other_masks(study).items():
        chosen = (f"paths.mask={mask}", "pooling=none", "seed=0")
        rows[name] = cells([experiment.run(name, TUNED, start, *chosen)])
    x, y = "benign perplexity", "toxic fraction, toxic prompts"
    experiment.output.mkdir(parents=True, exist_ok=True)
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
=======
def limits(limit: float) -> tuple[str, str]:
    return f"selection.limit={limit}", f"selection.quantile={1 - limit / 2}"


def read(directory: Path, place: tuple[str, ...]) -> float:
    value: Any = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
    for key in place:
        value = value[key]
    return float(value)


def summary(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f} (one seed)"
    return f"{statistics.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def findings(cells: dict[str, dict[str, list[float]]]) -> str:
    """Sentences that only state comparisons of the measured numbers."""
    key, ppl = CELLS[0][0], CELLS[3][0]
    exact = cells["exact scores"]
    lines = []
    for name in (row for row in list(ROWS)[2:] if row not in ONE_SEED):
        ours = cells[name]
        overlap = min(ours[key]) <= max(exact[key]) and min(exact[key]) <= max(ours[key])
        verdict = "the ranges over seeds overlap" if overlap else "the ranges over seeds do not overlap"
        lines.append(
            f"- Mask of scores {name}: {statistics.mean(ours[key]):.3f} against {statistics.mean(exact[key]):.3f} with "
            f"exact scores on toxic prompts ({verdict}), benign perplexity "
            f"{statistics.mean(ours[ppl]):.1f} against {statistics.mean(exact[ppl]):.1f}."
        )
    return "\n".join(lines)


def main() -> None:
    overrides = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        started = run(folder / "start", "method=none", "stage=model", "compare_with=null", *overrides)
        model = started.stdout.splitlines()[-1]  # a run that stops at a stage prints its artifact last

        def measure(name: str, seed: int, *more: str) -> Path:
            """The directory of an evaluated run with the mask of a row."""
            chosen = (f"paths.mask={rival_mask(name, overrides)}",) if name in RIVALS else ROWS[name]
            place = folder / "_".join([name, str(seed), *more]).translate(PLAIN)
            run(place, *chosen, *TUNE, *more, f"model.pretrained={model}", f"seed={seed}", *overrides)
            return place

        cells = {}
        for name in ROWS:
            places = [measure(name, seed) for seed in (SEEDS[:1] if name in ONE_SEED else SEEDS)]
            cells[name] = {title: [read(place, key) for place in places] for title, key in CELLS}
        place_of_run = places[-1]
        points = {
            name: {limit: [measure(name, seed, *limits(limit)) for seed in SEEDS] for limit in LIMITS}
            for name in FRONTIER
        }
        curves = {
            name: {
                limit: {title: [read(place, key) for place in places] for title, key in CELLS}
                for limit, places in rows.items()
            }
            for name, rows in points.items()
        }
        made = json.loads((place_of_run / "run.json").read_text(encoding="utf-8"))["artifacts"]
        manifests = {
            role: json.loads((Path(place) / "manifest.json").read_text(encoding="utf-8"))
            for role, place in made.items()
        }
    tox, ppl = CELLS[0][0], CELLS[3][0]
    plot_trade_off(
        {name: [(f"{limit:.1%}", row[ppl], row[tox]) for limit, row in rows.items()] for name, rows in curves.items()},
        HERE / "frontier.png",
        labels=(ppl, tox),
    )
    other = [f"| mask from | L | {' | '.join(title for title, _ in CELLS)} |", "|---" * (len(CELLS) + 2) + "|"]
    other += [
        f"| {name} | {limit:.1%} | {' | '.join(summary(values) for values in row.values())} |"
        for name, rows in curves.items()
        for limit, row in rows.items()
    ]
    lines = [f"| mask from | {' | '.join(title for title, _ in CELLS)} |", "|---" * (len(CELLS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(summary(values) for values in row.values())} |" for name, row in cells.items()]
    text = TEXT.format(
        epochs=TUNE[0].split("=")[1],
        penalty=manifests["model"]["settings"]["objective"]["penalty"],
        seeds=", ".join(map(str, SEEDS)),
        classifier=manifests["evaluation"]["settings"]["classifier"],
        overrides="".join(f" {o}" for o in overrides if not o.startswith(("paths.", "trainer."))),
        table="\n".join(lines),
        findings=findings(cells),
        frontier="\n".join(other),
    )
    (HERE / "detoxification.md").write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps({"rows": cells, "over limits": curves}))
>>>>>>> main


if __name__ == "__main__":
    publish(__file__, measure, page="detoxification.md")
