"""Does the effect grow or shrink with the size of the model? The mask of one small proxy, for models of several sizes.

    IFGUIDE_DATASETS=... python experiments/scaling/run.py [sizes=tiny,pythia_31m,pythia_70m] [seeds=1,2]
        [render=true] [override ...]

`sizes` are files of `conf/model`, whose vocabulary is that of the corpus. For a corpus and a tokenizer of your own add
their overrides, as `data.tokenizer.path=…`.
"""

from typing import Any

from ifguide.report.attribution import plot_intervals
from ifguide.report.experiment import Experiment, facts_of, page_of, publish
from ifguide.report.rows import compare_rows

FACTS = ("proxy_optim.epochs", "optim.epochs", "optim.learning_rate", "tasks.toxicity.samples")
PER_MILLION = 1e6


def measure(experiment: Experiment) -> dict[str, Any]:
    sizes, seeds = experiment.options["sizes"].split(","), experiment.options["seeds"]
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    found: dict[str, Any] = {}
    for size in sizes:
        asked = (f"model={size}", "model.settings.vocab_size=null", f"seed={seeds}")
        runs = experiment.sweep(size, "+experiment=scaling", *asked)
        facts, comparison = {run.method: facts_of(run, *FACTS) for run in runs}, compare_rows(runs, by=["method"])
        parameters = facts["none"]["made"]["model"]["facts"]["parameters"]
        for row in comparison.measured:
            cell = row.cells[comparison.headline]
            low, high = cell.interval or (cell.value, cell.value)
            curves.setdefault(row.name, []).append((round(parameters / PER_MILLION, 1), cell.value, low, high))
        found[size] = {"parameters": parameters, "facts": facts, **page_of(comparison)}
    labels = ("parameters in millions", "toxic fraction")
    plot_intervals(curves, experiment.output / "sizes.png", labels=labels, log=True)
    return {"sizes": found, "seeds": seeds.split(","), "figures": {size: one["figures"] for size, one in found.items()}}


if __name__ == "__main__":
    publish(__file__, measure, sizes="tiny,pythia_31m,pythia_70m", seeds="1,2")
