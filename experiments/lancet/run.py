"""LANCET-style correction beside its controls.

    python experiments/lancet/run.py [seeds=1,2,3] [render=true] [output=folder] [runs=folder] [override ...]

Sweeps `+experiment=lancet`: what sequences are ranked by, crossed with the objective. Beside it: influence with EK-FAC,
influence on labelled queries, and the model that all of them correct.
"""

from typing import Any

from ifguide.report.experiment import Experiment, compare_named, facts_of, page_of, publish
from ifguide.report.gather import Run

VARIANTS = ("curvature=ekfac", "post_training.queries=labelled")
NAMING = ("post_training.rank", "post_training.objective", "post_training.queries", "curvature")
USUAL = (None, "generations", "sequence_kronecker")


def name_of(run: Run) -> str:
    values = (run.setting(key) for key in NAMING)
    return "none" if run.method == "none" else ", ".join(value for value in values if value not in USUAL)


def measure(experiment: Experiment) -> dict[str, Any]:
    seeds = experiment.options["seeds"]
    runs = experiment.sweep("none", "method=none", f"seed={seeds}")
    runs += experiment.sweep("crossed", "+experiment=lancet", f"seed={seeds}")
    ours = ("+experiment=lancet", f"seed={seeds}", "post_training.rank=influence", "post_training.objective=pairwise")
    for variant in VARIANTS:
        runs += experiment.sweep(variant, *ours, variant)
    comparison, first = compare_named(runs, list(map(name_of, runs))), facts_of(runs[0], "tasks.toxicity.samples")
    plots = experiment.report(comparison, title="LANCET-style correction and its controls")
    return {"seeds": seeds.split(","), "first": first, "plots": plots, **page_of(comparison)}


if __name__ == "__main__":
    publish(__file__, measure, seeds="1,2,3")
