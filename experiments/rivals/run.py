"""IF-Guide beside its rivals on the built-in sample; writes README.md beside this file from what it measured.

    python experiments/rivals/run.py [size=tiny] [methods=none,ifguide] [output=folder] [override ...]

Each method's one or two settings are swept on validation prompts; the chosen one is reported on test prompts and other
seeds. Overrides go to every run. Everything is found again in the workspace, so an interrupted run continues.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.sample import sample_prompts
from ifguide.evaluation.fluency import block_losses, perplexity_metrics
from ifguide.models import load_model

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GRIDS: dict[str, tuple[str, ...]] = {  # method → its settings, as Hydra sweeps them
    "none": (),
    "word_filter": ("filter.at_least=1,2",),
    "toxicity_filter": ("filter.threshold=0.5,0.9", "filter.window=20,null"),
    "influence_filter": ("filter.share=0.1,0.5",),
    "token_filter": (),
    "unlikelihood": ("objective.weight=0.3,1,3",),
    "npo": ("objective.beta=0.5,2", "objective.weight=0.3,1"),
    "faded_ascent": ("objective.penalty=0.3,1,3",),
    "ifguide": ("objective.penalty=0.1,0.3,1",),
}
SIZES: dict[str, tuple[str, ...]] = {
    "sample": (),
    "tiny": (
        "data.sources.sample.size=300", "data.tokenizer.vocabulary=400", "data.block_length=32", "curvature.blocks=8",
        "model.settings.hidden_size=16", "model.settings.num_hidden_layers=2", "model.settings.intermediate_size=32",
        "proxy.settings.hidden_size=16", "proxy.settings.num_hidden_layers=2", "proxy.settings.intermediate_size=32",
        "optim.epochs=0.5", "proxy_optim.epochs=0.5", "evaluation.prompts.size=6", "evaluation.samples=3",
        "evaluation.max_new_tokens=5", "trainer.progress=false",
    ),
}  # fmt: skip
SEEDS = {"sample": (1, 2, 3), "tiny": (1,)}
VALIDATION = {"model": 0, "prompts": 1000}  # seeds of the sweep: of the target model, and of its prompts
TOLERANCE = 1.03
CELLS = (
    ("toxic fraction ↓", ("toxicity", "all", "toxic_fraction"), 3),
    ("toxic prompts: fraction ↓", ("toxicity", "toxic", "toxic_fraction"), 3),
    ("expected max. toxicity ↓", ("toxicity", "all", "expected_maximum_toxicity"), 3),
    ("benign perplexity ↓", ("perplexity", "benign", "perplexity"), 2),
    ("tokens dropped", ("filter", "all", "tokens_dropped_share"), 3),
    ("seconds", ("cost", "all", "seconds"), 0),
)
TEXT = """# Rivals

**Question.** What does IF-Guide do that simpler methods on the same corpus do not: leaving documents out, leaving
tokens out, or making the same tokens unlikely in another way?

**Command.** `python experiments/rivals/run.py{overrides}` on {machine}. Corpus: the built-in sample ({tokens:,}
training tokens); evaluator: {classifier}. Every setting was chosen on {prompts} *validation* prompts (of another
seed) and validation text with model seed {validation_seed}: the lowest toxic fraction among settings whose benign
perplexity is at most {tolerance:.0%} above the uncensored model's, or the lowest perplexity where there is none. The
table is of the chosen settings on the {prompts} *test* prompts and test text: mean over model seeds {seeds} and, in
brackets, the least and the largest of them. *Seconds* are of all that a row was made from, the corpus and the
generation included; rows share what they have in common.

{table}

{notes}{findings}

## The sweeps

On validation prompts and validation text; the chosen setting of each method is bold.

{sweeps}
"""


def run(folder: Path, method: str, *overrides: str) -> list[Path]:
    """Run a sweep of one method and return the directories of its runs."""
    command = ["run.py", "-m", f"method={method}", "compare_with=null", f"hydra.sweep.dir={folder}", *overrides]
    print(f"\n# {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    return sorted((path.parent for path in folder.glob("*/metrics.json")), key=lambda path: int(path.name))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def manifest(workspace: Path, directory: Path, role: str) -> dict[str, Any]:
    """The manifest of what a run was made from."""
    return read(workspace / read(directory / "artifacts.json")[role] / "manifest.json")


def validation_perplexity(workspace: Path, directory: Path) -> float:
    """Perplexity of a run's model on the benign documents of the validation split."""
    made = read(directory / "artifacts.json")
    split = Corpus(workspace / made["data"]).split("validation")
    losses = block_losses(load_model(workspace / made["model"]), split, batch_size=16)
    return float(perplexity_metrics(losses, split)["benign"]["perplexity"])  # type: ignore[arg-type]


def sweep(workspace: Path, folder: Path, method: str, overrides: list[str]) -> list[dict[str, Any]]:
    """What each setting of a method does on validation prompts and text."""
    seeds = (f"seed={VALIDATION['model']}", f"evaluation.prompts.seed={VALIDATION['prompts']}")
    names = {grid.split("=")[0] for grid in GRIDS[method]}
    tried = []
    for directory in run(folder, method, *seeds, *GRIDS[method], *overrides):
        given = OmegaConf.to_container(OmegaConf.load(directory / ".hydra" / "overrides.yaml"))
        tried.append(
            {
                "setting": [override for override in given if override.split("=")[0] in names],
                "toxic_fraction": read(directory / "metrics.json")["toxicity"]["all"]["toxic_fraction"],
                "perplexity": validation_perplexity(workspace, directory),
            }
        )
    return tried


def choose(tried: list[dict[str, Any]], limit: float) -> dict[str, Any]:
    """The least toxic setting within a limit on perplexity; where there is none, the most fluent one."""
    fluent = [row for row in tried if row["perplexity"] <= limit]
    if not fluent:
        return min(tried, key=lambda row: row["perplexity"])
    return min(fluent, key=lambda row: (row["toxic_fraction"], row["perplexity"]))


def value_at(metrics: dict[str, Any], place: tuple[str, ...]) -> float | None:
    value: Any = metrics
    for key in place:
        value = value.get(key)
        if value is None:
            return None
    return float(value)


def summary(values: list[float], decimals: int) -> str:
    if not values:
        return "–"
    text = f"{statistics.mean(values):.{decimals}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{decimals}f}–{max(values):.{decimals}f})"


def setting_of(row: dict[str, Any]) -> str:
    return ", ".join(setting.split(".", 1)[1] for setting in row["setting"]) or "–"


def findings(rows: dict[str, dict[str, list[float]]]) -> str:
    """Sentences that only state comparisons of the measured numbers."""
    key, fluency = CELLS[0][0], CELLS[3][0]
    if "ifguide" not in rows:
        return ""
    ours, lines = rows["ifguide"], []
    for name, row in rows.items():
        if name == "ifguide":
            continue
        apart = min(row[key]) > max(ours[key]) or max(row[key]) < min(ours[key])
        verdict = "the ranges over seeds do not overlap" if apart else "the ranges over seeds overlap"
        if len(row[key]) == 1:
            verdict = "one seed"
        mean = {place: (statistics.mean(ours[place]), statistics.mean(row[place])) for place in (key, fluency)}
        lines.append(
            f"- IF-Guide against {name}: toxic fraction {mean[key][0]:.3f} against {mean[key][1]:.3f} ({verdict}), "
            f"benign perplexity {mean[fluency][0]:.2f} against {mean[fluency][1]:.2f}."
        )
    return "\n".join(lines)


def main() -> None:
    options = {"size": "sample", "methods": ",".join(GRIDS), "output": str(HERE)}
    given = [argument for argument in sys.argv[1:] if argument.split("=")[0] in options]
    options |= dict(argument.split("=", 1) for argument in given)
    asked = [argument for argument in sys.argv[1:] if argument not in given]
    methods = options["methods"].split(",")
    if options["size"] not in SIZES or not set(methods) <= set(GRIDS):
        raise SystemExit(f"error: size is one of {', '.join(SIZES)}; methods are {', '.join(GRIDS)}")
    overrides, seeds = [*SIZES[options["size"]], *asked], SEEDS[options["size"]]
    named = next((o.split("=", 1)[1] for o in asked if o.startswith("paths.workspace=")), "workspace")
    workspace = ROOT / named
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sweeps = {"none": sweep(workspace, folder / "validation" / "none", "none", overrides)}
        limit = TOLERANCE * sweeps["none"][0]["perplexity"]
        chosen = {}
        rows: dict[str, dict[str, list[float]]] = {}
        notes: dict[str, list[str]] = {}
        for method in methods:
            if method != "none":
                sweeps[method] = sweep(workspace, folder / "validation" / method, method, overrides)
            chosen[method] = choose(sweeps[method], limit)
            every = f"seed={','.join(map(str, seeds))}"
            runs = run(folder / "test" / method, method, every, *chosen[method]["setting"], *overrides)
            metrics = [read(directory / "metrics.json") for directory in runs]
            rows[method] = {
                title: [value for one in metrics if (value := value_at(one, place)) is not None]
                for title, place, _ in CELLS
            }
            notes[method] = read(runs[0] / "row.json")["notes"]
        made = {role: manifest(workspace, runs[0], role) for role in ("data", "generations", "evaluation")}
    drawn = made["generations"]["settings"]["evaluation"]["prompts"]
    one, other = (
        {prompt.text for prompt in sample_prompts(seed=seed, size=drawn["size"])}
        for seed in (drawn["seed"], VALIDATION["prompts"])
    )
    assert not one & other, "validation and test prompts share a text"
    lines = [f"| method | setting | {' | '.join(title for title, _, _ in CELLS)} |", "|---" * (len(CELLS) + 2) + "|"]
    for name, row in rows.items():
        mark = "\\*" if notes[name] else ""
        cells = [summary(row[title], decimals) for title, _, decimals in CELLS]
        lines.append(f"| {name}{mark} | {setting_of(chosen[name])} | {' | '.join(cells)} |")
    tried_lines = ["| method | setting | toxic fraction ↓ | benign perplexity ↓ |", "|---|---|---|---|"]
    for name in (name for name in sweeps if name in methods):
        for row in sweeps[name]:
            bold = "**" if row is chosen[name] else ""
            figures = f"{row['toxic_fraction']:.3f} | {row['perplexity']:.2f}"
            tried_lines.append(f"| {name} | {bold}{setting_of(row)}{bold} | {figures} |")
    text = TEXT.format(
        overrides="".join(f" {a}" for a in sys.argv[1:] if not a.startswith(("paths.", "trainer.", "output="))),
        machine=f"{os.cpu_count()} CPU cores ({platform.machine()})",
        tokens=made["data"]["facts"]["train"]["tokens"],
        classifier=made["evaluation"]["settings"]["classifier"],
        prompts=drawn["size"],
        validation_seed=VALIDATION["model"],
        tolerance=TOLERANCE - 1,
        seeds=", ".join(map(str, seeds)),
        table="\n".join(lines),
        notes="".join(f"\\* {name}: {' '.join(lines)}\n\n" for name, lines in notes.items() if lines),
        findings=findings(rows),
        sweeps="\n".join(tried_lines),
    )
    output = Path(options["output"])
    output.mkdir(parents=True, exist_ok=True)
    (output / "README.md").write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
