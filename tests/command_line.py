"""`run.py` as a user types it, in a process of its own."""

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMOKE = "+debug=smoke"


def run(folder, *arguments, check=True, **environment_too):
    environment = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")}
    result = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments], cwd=folder, capture_output=True, text=True,
        env=environment | {"WANDB_MODE": "offline"} | environment_too, timeout=600,
    )  # fmt: skip
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def assert_report(folder, methods=("none", "ifguide"), seeds=("1", "2")):
    for name in ("report.html", "table.md", "table.tex", "table.csv", "frontier.png", "frontier.svg"):
        assert (folder / name).stat().st_size > 0
    with (folder / "table.csv").open() as table:
        rows = {row["method"]: row for row in csv.DictReader(table)}
    for method in methods:
        assert rows[method]["seeds"] == " ".join(seeds), method
        assert method == "none" or rows[method]["reference"] == "none"
        assert method == "none" or rows[method]["toxicity.all.toxic_fraction_difference_low"]
