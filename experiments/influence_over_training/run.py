"""How early in training do token scores settle? Scores at 25, 50 and 75 % of training against those at its end.

    python experiments/influence_over_training/run.py [render=true] [override ...]

Runs `+experiment=influence_over_training`: the built-in sample's uncensored model, or what the overrides say.
"""

import json
from typing import Any

from ifguide.report.experiment import Experiment, publish
from ifguide.workspace import read_manifest


def measure(experiment: Experiment) -> dict[str, Any]:
    model = experiment.run("run", "+experiment=influence_over_training").artifacts["model"]
    points = json.loads((model / "influence" / "summary.json").read_text(encoding="utf-8"))
    figures = {f"spearman_at_{point['step'] / points[-1]['step']:.0%}": point["spearman"] for point in points}
    return {"points": points, "model": read_manifest(model)["facts"], "figures": figures}


if __name__ == "__main__":
    publish(__file__, measure)
