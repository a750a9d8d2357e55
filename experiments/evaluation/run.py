"""Every task, classifier and utility on real text, with and without IF-Guide.

    IFGUIDE_DATASETS=... python experiments/evaluation/run.py [render=true] [override ...]

Trains the uncensored model of `+experiment=real_text`, then sweeps `+experiment=evaluation` from it.
"""

from typing import Any

from ifguide.report.experiment import Experiment, facts_of, page_of, publish
from ifguide.report.rows import compare_rows


def measure(experiment: Experiment) -> dict[str, Any]:
    start = experiment.run("start", "+experiment=real_text", "method=none", "stage=model").typed("model")
    runs = experiment.sweep("runs", "+experiment=evaluation", f"start={start}", "method=none,ifguide")
    comparison = compare_rows(runs)
    experiment.report(comparison, title="IF-Guide: evaluation on real text")
    rows = {run.method: facts_of(run, "optim.epochs", "tasks.toxicity.samples") for run in runs}
    return {**page_of(comparison), "rows": rows}


if __name__ == "__main__":
    publish(__file__, measure)
