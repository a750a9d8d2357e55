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


if __name__ == "__main__":
    publish(__file__, measure)
