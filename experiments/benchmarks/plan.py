"""How near is what `stage=plan` says? Builds a run, plans it as if nothing were there, and compares the seconds.

python experiments/benchmarks/plan.py [override of run.py ...]
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from shared import run_stage, table

from ifguide.cost.devices import ThisMachine
from ifguide.stages.configuration import saved
from ifguide.stages.costing import cost_of
from ifguide.stages.plan import make_plan
from ifguide.workspace import Workspace, read_manifest

LEAST = 10.0  # seconds of a stage that is judged: what is shorter does not matter to whoever plans


def main() -> None:
    warnings.simplefilter("ignore")
    run, _ = run_stage(__file__, "taken")
    configuration = saved(Path(run.place))
    configuration.paths.run = run.place  # Hydra's, which is not here
    with tempfile.TemporaryDirectory() as folder:
        machine, nothing = ThisMachine(torch.device("cpu")), Workspace(Path(folder))
        cost = cost_of(make_plan(configuration), nothing, machine, is_here=False)
    rows: list[dict[str, Any]] = []
    for role, one in cost.stages.items():
        manifest = read_manifest(run.artifacts[role])
        if not manifest["resumed"]:  # else these seconds are of its last part
            took = manifest["seconds"]
            ratio = one.seconds / took if took and one.seconds is not None else None
            rows.append({"stage": role, "planned, s": one.seconds, "took, s": took, "ratio": ratio, "by": one.basis})
    judged = [row for row in rows if row["took, s"] >= LEAST and row["planned, s"]]
    planned, took = (sum(row[key] for row in judged) for key in ("planned, s", "took, s"))
    whole = {"stage": f"all of {LEAST:g} s and more", "planned, s": planned, "took, s": took, "ratio": planned / took}
    print(table([*rows, whole], {"planned, s": ".1f", "took, s": ".1f", "ratio": ".2f"}), end="\n\n")
    print(json.dumps({"ratio": planned / took, "stages": {row["stage"]: row["ratio"] for row in judged}}))


if __name__ == "__main__":
    main()
