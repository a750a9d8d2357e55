"""Attribute-controlled fine-tuning, round by round: the sequential scheme, the parallel one, and what a step costs.

    python experiments/attribute_control/run.py [rounds=3] [seeds=1] [render=true] [override ...]

Beside them: as much ordinary fine-tuning. One of two processes trains a round's model, the other one the next R̂.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ifguide.report.experiment import Experiment, facts_of, publish
from ifguide.report.gather import Run

EPOCHS = 0.5  # of a round, in conf/optim/sample_control.yaml
PROCESSES = {"parallel": 2, "sequential": 1}


def row_of(run: Run, scheme: str, rounds: int) -> dict[str, Any]:
    made, metrics = (facts_of(run)[key] for key in ("made", "metrics"))
    last, learning = made["model"], [one for role, one in made.items() if role.startswith(f"round{rounds}.")]
    step, ordinary = (last["facts"].get(f"seconds_per_{kind}step") for kind in ("", "ordinary_"))
    return {
        "scheme": scheme, "rounds": rounds, "model_seconds": last["seconds"], "ratio": step and step / ordinary,
        "guidance_seconds": sum(one["seconds"] for one in learning),
        "perplexity": metrics["perplexity"]["benign"]["perplexity"],
        **{key: metrics["toxicity"]["all"][key] for key in ("toxic_fraction", "toxic_fraction_interval")},
    }  # fmt: skip


def measure(experiment: Experiment) -> dict[str, Any]:
    rounds, seeds = int(experiment.options["rounds"]), experiment.options["seeds"].split(",")
    if rounds < 2:
        raise SystemExit(f"error: rounds={rounds}: 2 at least, as nothing learns beside the last one")
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        rows.append(row_of(start := experiment.run(f"none/{seed}", "method=none", f"seed={seed}"), "none", 0))
        for number in range(rounds, 0, -1):  # first the rounds of which one is trained beside the next one's R̂
            given = ("method=none", f"model.pretrained={start.typed('model')}", "optim=sample_control",
                     f"optim.epochs={number * EPOCHS}", f"seed={seed}")  # fmt: skip
            rows.append(row_of(experiment.run(f"tuned/{seed}/{number}", *given), "fine-tuning", number))
            for scheme, count in PROCESSES.items():
                given = ("method=attribute_control", f"post_training.rounds={number}",
                         f"post_training.parallel={count > 1}", f"seed={seed}")  # fmt: skip
                with ThreadPoolExecutor() as pool:
                    started = [pool.submit(experiment.run, f"{scheme}/{seed}/{number}/{process}", *given)
                               for process in range(count)]  # fmt: skip
                rows += [row_of(one.result(), scheme, number) for one in started][:1]
    beside = [one for one in rows if one["rounds"] < rounds]  # a round whose model is trained beside the next R̂
    costs = {scheme: min(one["ratio"] for one in beside if one["scheme"] == scheme) for scheme in PROCESSES}
    return {"seeds": seeds, "rows": rows, "costs": costs, "figures": {f"{one}_step_ratio": costs[one] for one in costs}}


if __name__ == "__main__":
    publish(__file__, measure, rounds="3", seeds="1")
