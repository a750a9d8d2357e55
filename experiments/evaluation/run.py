"""Every task, classifier and utility on real text, with and without IF-Guide; writes README.md beside this file.

    IFGUIDE_DATASETS=... python experiments/evaluation/run.py [override ...]

Continues the uncensored model of `+experiment=real_text` for a part of a pass, once as it is and once with the mask.
Everything is found again in the workspace, so an interrupted run continues.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TUNE = ("optim.epochs=0.15", "optim.learning_rate=1e-3", "evaluation.prompts.limit=100")
TASKS = (
    "+evaluation@tasks.bold=bold", "tasks.bold.prompts.limit=20",
    "+evaluation@tasks.toxigen=toxigen", "tasks.toxigen.prompts.limit=5",
)  # fmt: skip
MEASURES = (
    "+classifier@classifiers.ngrams=trained",
    "+utility@utilities.lambada=lambada", "utilities.lambada.limit=1000",
    "+utility@utilities.toxicity_probe=toxicity_probe",
)  # fmt: skip
TEXT = """# Evaluation on real text

**Question.** What do prompts of other kinds, another classifier, and what a model is otherwise good for say of a model
that was kept from learning toxic text?

**Command.** `python experiments/evaluation/run.py{overrides}` on {machine}, one seed. The uncensored model of
`+experiment=real_text` ({parameters:.1f} M parameters), trained on for {epochs} of a pass without and with IF-Guide's
mask. Prompts × samples: {prompts}. Headline classifier: {classifier}; beside it one of n-grams, trained here on posts
and comments, some of which are in the corpus (Davidson et al.) or tell the toxicity probe (Wikipedia) what is toxic:
its verdict is a second opinion on generations, not an independent one. The seconds of `ifguide` are with those of its
proxy, which is the model that both rows start from. A model of this size answers no question of LAMBADA well; the row
is there to see a loss, if there is one.

## All of it

{table}

![Toxicity against perplexity](frontier.png)

## By subset

Toxic fraction (headline classifier) on the subsets of each task, and how varied the continuations are.

{subsets}
"""


def run(*command: str) -> str:
    print(f"\n# {' '.join(command)}", flush=True)
    done = subprocess.run([sys.executable, "run.py", *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    return done.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def subset_table(rows: dict[str, dict[str, Any]], tasks: list[str]) -> str:
    lines = [f"| task, subset | prompts | {' | '.join(f'{name}: toxic fraction' for name in rows)} | "
             f"{' | '.join(f'{name}: distinct-2' for name in rows)} |"]  # fmt: skip
    lines.append("|---" * (2 + 2 * len(rows)) + "|")
    first = next(iter(rows.values()))
    for task in tasks:
        for subset in first[task]:
            each = [metrics[task][subset] for metrics in rows.values()]
            cells = [f"{values['toxic_fraction']:.3f}" for values in each]
            cells += [f"{values['distinct_2']:.3f}" for values in each]
            lines.append(f"| {task}, {subset} | {each[0]['prompts']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    overrides = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        start = ("+experiment=real_text", "method=none", "stage=model", "compare_with=null")
        model = run(*start, f"hydra.run.dir={folder / 'start'}", *overrides).splitlines()[-1]
        rows = {}
        for method in ("none", "ifguide"):
            place = folder / "runs" / method
            run("+experiment=real_text", f"method={method}", "compare_with=null", f"model.pretrained={model}", *TUNE,
                *TASKS, *MEASURES, f"reference_model={model}", f"hydra.run.dir={place}", *overrides)  # fmt: skip
            rows[method] = read(place / "metrics.json")
        made = read(place / "run.json")["artifacts"]
        manifest = {
            role: read(Path(made[role]) / "manifest.json") for role in ("model", "generations.toxicity", "evaluation")
        }
        run("stage=report", f"report.runs={folder / 'runs'}", f"hydra.run.dir={folder / 'report'}", *overrides)
        table = (folder / "report" / "table.md").read_text(encoding="utf-8")
        shutil.copyfile(folder / "report" / "frontier.png", HERE / "frontier.png")
    tasks = ["toxicity", "bold", "toxigen"]
    samples = manifest["generations.toxicity"]["settings"]["evaluation"]["samples"]
    text = TEXT.format(
        overrides="".join(f" {o}" for o in overrides if not o.startswith(("paths.", "trainer."))),
        machine=f"{os.cpu_count()} CPU cores ({platform.machine()})",
        parameters=manifest["model"]["facts"]["parameters"] / 1e6,
        epochs=TUNE[0].split("=")[1],
        prompts=", ".join(f"{task} {rows['none'][task]['all']['prompts']} × {samples}" for task in tasks),
        classifier=manifest["evaluation"]["settings"]["classifier"],
        table=table,
        subsets=subset_table(rows, tasks),
    )
    (HERE / "README.md").write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
