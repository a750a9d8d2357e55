"""Run the README's first command and put its table into the README.

python experiments/sample/run.py [render=true] [override ...]
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from ifguide.report.experiment import Experiment, figures_of
from ifguide.report.rows import compare_rows

PLACE = re.compile(r"(<!-- generated: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)


def measure(experiment: Experiment) -> dict[str, Any]:
    runs = experiment.sweep("sweep", "method=none,ifguide", report=True)
    table = (experiment.runs / "sweep" / "table.md").read_text(encoding="utf-8")
    return {"table": table, "figures": figures_of(compare_rows(runs))}


def put(table: str, readme: Path) -> None:
    """Put a table between the marks of the README."""
    text = readme.read_text(encoding="utf-8")
    assert PLACE.search(text), f"{readme} has lost the marks of its generated table"
    readme.write_text(PLACE.sub(lambda marks: f"{marks[1]}{table.rstrip()}\n{marks[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    experiment = Experiment(Path(__file__).absolute(), sys.argv[1:])
    results = experiment.results(measure)
    put(results["table"], experiment.root / "README.md")
    print(json.dumps(results["figures"]))
