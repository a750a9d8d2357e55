"""Every task, classifier and utility on real text, with and without IF-Guide.

    IFGUIDE_DATASETS=... python experiments/evaluation/run.py [render=true] [override ...]

Trains the uncensored model of `+experiment=real_text`, then sweeps `+experiment=evaluation` from it.
"""

import shutil
from typing import Any

from ifguide.report.experiment import Experiment, figures_of, publish
from ifguide.report.formats import markdown
from ifguide.report.rows import compare_rows
from ifguide.report.write import write_report
from ifguide.workspace import read_manifest

TASKS = ("toxicity", "bold", "toxigen")


<<<<<<< HEAD
def measure(experiment: Experiment) -> dict[str, Any]:
    start = experiment.run("start", "+experiment=real_text", "method=none", "stage=model").artifacts["model"]
    runs = experiment.sweep("runs", "+experiment=evaluation", f"start={start}", "method=none,ifguide")
    comparison = compare_rows(runs)
    write_report(comparison, experiment.runs / "report", title="IF-Guide: evaluation on real text")
    shutil.copyfile(experiment.runs / "report" / "frontier.png", experiment.output / "frontier.png")
    first = runs[0]
    made = {role: read_manifest(first.artifacts[role]) for role in ("model", "classifier.toxicity")}
    return {
        "parameters": made["model"]["facts"]["parameters"],
        "epochs": first.config["optim"]["epochs"],
        "samples": first.config["tasks"]["toxicity"]["samples"],
        "classifier": made["classifier.toxicity"]["facts"]["name"],
        "table": markdown(comparison),
        "rows": {run.method: {task: run.metrics[task] for task in TASKS} for run in runs if run.metrics},
        "figures": figures_of(comparison),
    }
=======
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
>>>>>>> main


if __name__ == "__main__":
    publish(__file__, measure)
