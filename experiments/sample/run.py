"""Run the README's first command and put its table into the README, or with `output=…` into a copy there.

python experiments/sample/run.py [render=true] [output=folder] [override ...]
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from ifguide.report.experiment import Experiment, figures_of
from ifguide.report.rows import compare_rows
from ifguide.workspace import write_atomically

PLACE = re.compile(r"(<!-- generated: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)


def measure(experiment: Experiment) -> dict[str, Any]:
    figures = figures_of(compare_rows(experiment.sweep("sweep", "method=none,ifguide", report=True)))
    return {"table": (experiment.runs / "sweep" / "table.md").read_text("utf-8"), "figures": figures}


def between_marks(text: str, table: str) -> str:
    assert PLACE.search(text), "the README has lost the marks of its generated table"
    return PLACE.sub(lambda marks: f"{marks[1]}{table.rstrip()}\n{marks[2]}", text)


if __name__ == "__main__":
    experiment = Experiment(Path(__file__).absolute(), sys.argv[1:])
    results, readme = experiment.results(measure), (experiment.root / "README.md").read_text("utf-8")
    place = experiment.output if experiment.options["output"] else experiment.root
    write_atomically(place / "README.md", between_marks(readme, results["table"]).encode())
    print(json.dumps(results["figures"]))
