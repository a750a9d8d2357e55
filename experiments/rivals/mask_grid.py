"""Whose mask, and what is done with it? Masks of as many tokens by influence, a classifier and a probe × objectives.

python experiments/rivals/mask_grid.py [seeds=1,2,3] [render=true] [output=folder] [runs=folder] [override ...]
"""

from typing import Any

from ifguide.report.experiment import Experiment, compare_named, facts_of, page_of, publish

MASKS = {"jvp": "influence", "classifier": "classifier", "probe": "probe"}


def measure(experiment: Experiment) -> dict[str, Any]:
    seeds = experiment.options["seeds"]
    runs = experiment.sweep("mask_grid", "+experiment=mask_grid", f"seed={seeds}")
    masked = [run for run in runs if run.method != "none" or run.choices["scorer"] == "jvp"]  # none has no mask
    names = [run.method if run.method == "none" else f"{run.method}, {MASKS[run.choices['scorer']]}" for run in masked]
    comparison, first = compare_named(masked, names), facts_of(runs[0], "tasks.toxicity.samples")
    return {"seeds": seeds.split(","), "first": first, "masks": list(MASKS.values()), **page_of(comparison)}


if __name__ == "__main__":
    publish(__file__, measure, page="mask_grid.md", seeds="1,2,3")
