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
from ifguide.pipeline import Pipeline

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SEEDS = (0, 1, 2)
RIVALS = ("random tokens", "word list")
ONE_SEED = ("no mask", "pooled by type and context", *RIVALS)  # these are for scale
TUNE = ("optim.epochs=0.15", "optim.learning_rate=1e-3", "evaluation.prompts.limit=100", "compare_with=null")
ROWS: dict[str, tuple[str, ...]] = {
    "no mask": ("method=none",),
    "exact scores": (),
    "pooled by type and context": ("pooling=type_context",),
    "amortised from 5 %": ("scorer=amortised",),
    "random tokens": (),
    "word list": (),
}
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
        else:
            queries = next(iter(pipeline.queries.values()))
            scores = word_list_scores(split, pipeline.corpus.tokenizer, word_log_odds(queries))
            scores += 1e-3 * np.random.default_rng(0).random(split.shape, dtype=np.float32)  # ties in random order
        selection = pipeline.selection(scores, split.documents["start"])
        selection.mask.save(directory / "mask.npy")
        return {"selected": selection.selected}

    parts = ("selection", "behaviours")
    settings = {"scores": name, **{part: OmegaConf.to_container(pipeline.cfg[part], resolve=True) for part in parts}}
    return pipeline.workspace.build(
        "mask", version=2, settings=settings, inputs={"data": pipeline.data()}, builder=build
    ).path


def read(metrics: dict[str, Any], place: tuple[str, ...]) -> float:
    value: Any = metrics
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
        model = started.stdout.split()[-1]  # a run that stops at a stage prints its artifact last
        named = next((o.split("=")[1] for o in overrides if o.startswith("paths.workspace=")), "workspace")
        workspace = ROOT / named
        cells: dict[str, dict[str, list[float]]] = {name: {title: [] for title, _ in CELLS} for name in ROWS}
        for seed in SEEDS:
            for name, chosen in ROWS.items():
                if name in ONE_SEED and seed != SEEDS[0]:
                    continue
                if name in RIVALS:
                    chosen = (f"paths.mask={rival_mask(name, overrides)}",)
                place_of_run = folder / f"{name}_{seed}".replace(" ", "_").replace("%", "")
                run(place_of_run, *chosen, *TUNE, f"model.pretrained={model}", f"seed={seed}", *overrides)
                metrics = json.loads((place_of_run / "metrics.json").read_text(encoding="utf-8"))
                for title, place in CELLS:
                    cells[name][title].append(read(metrics, place))
        made = json.loads((place_of_run / "artifacts.json").read_text(encoding="utf-8"))
        manifests = {
            role: json.loads((workspace / name / "manifest.json").read_text(encoding="utf-8"))
            for role, name in made.items()
        }
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
    )
    (HERE / "detoxification.md").write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps(cells))


if __name__ == "__main__":
    main()
