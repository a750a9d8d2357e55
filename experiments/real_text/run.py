"""IF-Guide on real text, pre-trained and fine-tuned.

    IFGUIDE_DATASETS=... python experiments/real_text/run.py [render=true] [override ...]

Sweeps `+experiment=real_text`, then `+experiment=real_text_tuned` from its uncensored model.
"""

from dataclasses import replace
from typing import Any

from ifguide.report.experiment import Experiment, figures_of, publish
from ifguide.report.formats import markdown
from ifguide.report.rows import compare_rows
from ifguide.workspace import read_manifest

TUNED = "none, fine-tuned"


def measure(experiment: Experiment) -> dict[str, Any]:
    paper = "selection=paper"
    none, ours = experiment.sweep("trained", "+experiment=real_text", paper, "method=none,ifguide")
    start = (f"start={none.artifacts['model']}", "optim.epochs=0.25", "tasks.toxicity.prompts.limit=300")
    tuned = experiment.sweep("tuned", "+experiment=real_text_tuned", paper, *start, "method=none,ifguide")
    stronger = experiment.run("stronger", "+experiment=real_text_tuned", paper, *start, "objective.penalty=1")
    runs = {"none": none, "IF-Guide": ours, TUNED: tuned[0], "IF-Guide, fine-tuned": tuned[1],
            "IF-Guide λ = 1, fine-tuned": stronger}  # fmt: skip
    if problems := [f"{name}: {run.problem}" for name, run in runs.items() if run.metrics is None]:
        raise SystemExit(f"error: {'; '.join(problems)}")
    comparison = compare_rows([replace(run, choices={"method": name}) for name, run in runs.items()], by=["method"])
    rows = {name: run.metrics or {} for name, run in runs.items()}
    made = {role: read_manifest(path) for role, path in ours.artifacts.items()}
    return {
        "corpus": made["data"]["facts"]["train"],
        "queries": made["direction.toxicity"]["facts"],
        "prompts": rows["none"]["toxicity"]["all"]["prompts"],
        "parameters": made["model"]["facts"]["parameters"],
        "classifier": made["classifier.toxicity"]["facts"]["name"],
        "penalty": ours.config["objective"]["penalty"],
        "limit": made["mask"]["settings"]["selection"]["limit"],
        "selected": made["mask"]["facts"]["selected"],
        "table": markdown(comparison),
        "attribution": rows["IF-Guide"]["attribution"]["all"],
        "pairs": [
            {
                "before": before,
                "after": after,
                "toxic_fraction": [rows[name]["toxicity"]["toxic"]["toxic_fraction"] for name in (before, after)],
                "perplexity": [rows[name]["perplexity"]["benign"]["perplexity"] for name in (before, after)],
            }
            for before, after in [("none", "IF-Guide"), *((TUNED, name) for name in list(runs)[3:])]
        ],
        "seconds": {role: manifest["seconds"] for role, manifest in made.items()},
        "figures": figures_of(comparison),
    }


if __name__ == "__main__":
    publish(__file__, measure)
