"""IF-Guide on real text, pre-trained and fine-tuned.

    IFGUIDE_DATASETS=... python experiments/real_text/run.py [render=true] [override ...]

Sweeps `+experiment=real_text`, then `+experiment=real_text_tuned` from its uncensored model.
"""

from typing import Any

from ifguide.report.experiment import Experiment, compare_named, facts_of, page_of, publish

NAMES = ("none", "IF-Guide", "none, fine-tuned", "IF-Guide, fine-tuned", "IF-Guide λ = 1, fine-tuned")
PAPER = "selection=paper"


def measure(experiment: Experiment) -> dict[str, Any]:
    runs = experiment.sweep("trained", "+experiment=real_text", PAPER, "method=none,ifguide")
    facts_of(runs[0])  # the others continue it
    start = ("+experiment=real_text_tuned", PAPER, f"start={runs[0].typed('model')}", "optim.epochs=0.25",
             "tasks.toxicity.prompts.limit=300")  # fmt: skip
    runs += experiment.sweep("tuned", *start, "method=none,ifguide")
    runs += experiment.sweep("stronger", *start, "method=ifguide", "objective.penalty=1")
    rows = {name: facts_of(run, "objective.penalty", "selection.limit") for name, run in zip(NAMES, runs, strict=True)}
    return {**page_of(compare_named(runs, NAMES)), "rows": rows}


if __name__ == "__main__":
    publish(__file__, measure)
