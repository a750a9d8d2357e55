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


def between_marks(text: str, table: str) -> str:
    assert PLACE.search(text), "the README has lost the marks of its generated table"
    return PLACE.sub(lambda marks: f"{marks[1]}{table.rstrip()}\n{marks[2]}", text)


if __name__ == "__main__":
    experiment = Experiment(Path(__file__).absolute(), sys.argv[1:])
    results = experiment.results(measure)
    readme = experiment.root / "README.md"
    readme.write_text(between_marks(readme.read_text("utf-8"), results["table"]), encoding="utf-8")
    print(json.dumps(results["figures"]))
