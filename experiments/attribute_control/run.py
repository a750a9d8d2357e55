"""Attribute-controlled fine-tuning, round by round: the sequential scheme, the parallel one, and what a step costs.

    python experiments/attribute_control/run.py [rounds=3] [seeds=1] [render=true] [override ...]

Beside them: the uncensored model, and as much ordinary fine-tuning. It takes two rounds to time a parallel step.
"""

from typing import Any

from ifguide.report.experiment import Experiment, facts_of, publish
from ifguide.report.gather import Run

EPOCHS = 0.5  # of a round, in conf/optim/sample_control.yaml
SCHEMES = {"sequential": "false", "parallel": "true"}


def row_of(run: Run, scheme: str, rounds: int) -> dict[str, Any]:
    facts = facts_of(run)
    made, metrics = facts["made"], facts["metrics"]
    learning = [one["facts"] for role, one in made.items() if scheme != "parallel" or role != "model"]  # no R̂
    steps = [one for one in learning if "seconds_per_step" in one]
    of_rounds = [one["seconds"] for role, one in made.items() if role.startswith("round") or role == "model"]
    toxic = metrics["toxicity"]["all"]
    return {
        "scheme": scheme, "rounds": rounds, "seconds": sum(of_rounds) if rounds else None,
        "toxic_fraction": toxic["toxic_fraction"], "interval": toxic["toxic_fraction_interval"],
        "perplexity": metrics["perplexity"]["benign"]["perplexity"],
        "step": min((one["seconds_per_step"] for one in steps), default=None),
        "ordinary_step": min((one["seconds_per_ordinary_step"] for one in steps), default=None),
    }  # fmt: skip


def measure(experiment: Experiment) -> dict[str, Any]:
    rounds, seeds = int(experiment.options["rounds"]), experiment.options["seeds"].split(",")
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        start = experiment.run(f"none/{seed}", "method=none", f"seed={seed}")
        rows.append(row_of(start, "none", 0))
        model = f"model.pretrained={start.artifacts['model']}"
        for number in range(1, rounds + 1):
            tuned = ("method=none", model, "optim=sample_control", f"optim.epochs={number * EPOCHS}", f"seed={seed}")
            rows.append(row_of(experiment.run(f"tuned/{seed}/{number}", *tuned), "fine-tuning", number))
            for scheme, parallel in SCHEMES.items():
                given = (f"post_training.rounds={number}", f"post_training.parallel={parallel}", f"seed={seed}")
                run = experiment.run(f"{scheme}/{seed}/{number}", "method=attribute_control", *given)
                rows.append(row_of(run, scheme, number))
    ratios = [(one["scheme"], one["step"] / one["ordinary_step"]) for one in rows if one["step"]]
    costs = {scheme: min(ratio for name, ratio in ratios if name == scheme) for scheme in SCHEMES}
    figures = {f"{scheme}_step_ratio": cost for scheme, cost in costs.items()}
    return {"seeds": seeds, "rows": rows, "costs": costs, "figures": figures}


if __name__ == "__main__":
    publish(__file__, measure, rounds="3", seeds="1")
