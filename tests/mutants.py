"""Mutants of the losses, the selections and the scorers, drawn by a seed, for mutmut (`setup.cfg` says which and how).

    python tests/mutants.py 0 0.1     # names of the first tenth, in an order that is always the same
    python tests/mutants.py           # what became of those that were run, and the page that says so

mutmut keeps all it knows in `mutants/`, where `mutmut run none` makes them.
"""

import json
import sys
from pathlib import Path
from random import Random

KEPT = Path("mutants")


def outcomes() -> dict[str, dict[str, int | None]]:
    """File → mutant → exit code of its tests; None: not run."""
    files = sorted(KEPT.rglob("*.py.meta"))
    return {str(file.relative_to(KEPT))[: -len(".meta")]: json.loads(file.read_text())["exit_code_by_key"]
            for file in files}  # fmt: skip


def drawn(start: float, end: float, seed: int = 0) -> list[str]:
    """A share of all mutants, as a stretch of one shuffled list."""
    names = sorted(name for one in outcomes().values() for name in one)
    Random(seed).shuffle(names)
    return names[round(start * len(names)) : round(end * len(names))]


if __name__ == "__main__":
    print("\n".join(drawn(*map(float, sys.argv[1:]))))
