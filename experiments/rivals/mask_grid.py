"""Whose mask, and what is done with it? Masks with one limit, by influence, a classifier and a probe × objectives.

python experiments/rivals/mask_grid.py [seeds=1,2,3] [render=true] [output=folder] [runs=folder] [override ...]
"""

from typing import Any

from ifguide.report.experiment import Experiment, compare_named, facts_of, page_of, publish
from ifguide.workspace import read_manifest


def measure(experiment: Experiment) -> dict[str, Any]:
    runs = experiment.sweep("mask_grid", "+experiment=mask_grid", f"seed={experiment.options['seeds']}")
    masked = [run for run in runs if run.method != "none" or run.choices["scorer"] == "jvp"]  # none has no mask
    names = [run.method if run.method == "none" else f"{run.method}, {run.choices['scorer']}" for run in masked]
    first = facts_of(next(run for run in runs if run.metrics is not None), "tasks.toxicity.samples")
    masks = {run.choices["scorer"]: run.artifacts["mask"] for run in masked if "mask" in run.artifacts}
    selected = {name: read_manifest(mask)["facts"]["selected"] for name, mask in masks.items()}
    return {"first": first, "selected": selected, **page_of(compare_named(masked, names))}


if __name__ == "__main__":
    publish(__file__, measure, page="mask_grid.md", seeds="1,2,3")
