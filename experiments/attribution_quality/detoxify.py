"""Does better attribution detoxify better? Fine-tunes with the masks of several scores; writes detoxification.md.

    IFGUIDE_DATASETS=... python experiments/attribution_quality/detoxify.py [override ...]

Continues the uncensored model of `+experiment=real_text` for a part of a pass with each mask at equal budget, three
seeds. `run.py` beside this file takes the result into its README.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ifguide.corpus.words import word_log_odds
from ifguide.evaluation.attribution import word_list_scores
from ifguide.influence.store import open_scores
from ifguide.pipeline import Pipeline
from ifguide.report.attribution import plot_trade_off

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SEEDS = (0, 1, 2)
RIVALS = ("random tokens", "lowest exact scores", "word list")
ONE_SEED = ("no mask", *RIVALS)  # these are for scale
TUNE = ("optim.epochs=0.15", "optim.learning_rate=1e-3", "evaluation.prompts.limit=100", "compare_with=null")
PLAIN = str.maketrans(" =", "__", "%")
ROWS: dict[str, tuple[str, ...]] = {
    "no mask": ("method=none",),
    "exact scores": ("pooling=none",),
    "pooled by word and context": ("pooling=word_context",),
    "amortised from 5 %": ("scorer=amortised",),
    **{name: () for name in RIVALS},
}
FRONTIER = ("exact scores", "pooled by word and context")
LIMITS = (0.005, 0.02)  # L; q follows as 1 − L/2
CELLS = (
    ("toxic fraction, toxic prompts", ("toxicity", "toxic", "toxic_fraction")),
    ("toxic fraction, other prompts", ("toxicity", "nontoxic", "toxic_fraction")),
    ("expected maximum toxicity", ("toxicity", "all", "expected_maximum_toxicity")),
    ("benign perplexity", ("perplexity", "benign", "perplexity")),
)
TEXT = """
## Does it detoxify as well?

The uncensored model of `+experiment=real_text`, trained on for {epochs} of a pass with each mask (2 % of the tokens,
λ = {penalty}): mean over seeds {seeds} and, in brackets, the least and the largest of them. Evaluator: {classifier},
which nothing else used. `python experiments/attribution_quality/detoxify.py{overrides}`

{table}

{findings}

The same for other limits L of Algorithm 1, with q = 1 − L/2, three seeds each:

{frontier}

![Toxicity against perplexity over L](frontier.png)
"""


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = ["run.py", "+experiment=real_text", f"hydra.run.dir={folder}", *overrides]
    print(f"\n# {' '.join(command)}", flush=True)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    return done


def rival_mask(name: str, overrides: list[str]) -> Path:
    """An artifact of what Algorithm 1 selects from other scores than influence."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        fixed = ["+experiment=real_text", "stage=mask", "paths.run=outputs/attribution_quality"]
        pipeline = Pipeline(compose("config", overrides=[*fixed, *overrides]))
    split = pipeline.corpus.split("train")

    def build(directory: Path) -> dict[str, Any]:
        if name == "random tokens":
            scores = np.random.default_rng(0).random(split.shape, dtype=np.float32)
        elif name == "lowest exact scores":
            scores = -np.asarray(open_scores(pipeline.scores().path)[0])
        else:
            queries = next(iter(pipeline.queries.values()))
            scores = word_list_scores(split, pipeline.corpus.tokenizer, word_log_odds(queries))
            scores += 1e-3 * np.random.default_rng(0).random(split.shape, dtype=np.float32)  # ties in random order
        selection = pipeline.selection(scores, split.documents["start"])
        selection.mask.save(directory / "mask.npy")
        return {"selected": selection.selected}

    parts = ("selection", "behaviours")
    if name == "lowest exact scores":
        parts += ("scorer", "curvature")
    settings = {"scores": name, **{part: OmegaConf.to_container(pipeline.cfg[part], resolve=True) for part in parts}}
    return pipeline.workspace.build(
        "mask", version=2, settings=settings, inputs={"data": pipeline.data()}, builder=build
    ).path


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
        named = next((o.split("=", 1)[1] for o in overrides if o.startswith("paths.workspace=")), "workspace")
        workspace = ROOT / named

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
        made = json.loads((place_of_run / "artifacts.json").read_text(encoding="utf-8"))
        manifests = {
            role: json.loads((workspace / name / "manifest.json").read_text(encoding="utf-8"))
            for role, name in made.items()
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


if __name__ == "__main__":
    main()
