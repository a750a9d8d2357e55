"""Mutants of the losses, the selections and the scorers, drawn by a seed, for mutmut (`setup.cfg` says which and how).

    python tests/mutants.py 0 0.1     # names of the first tenth, in an order that is always the same

mutmut keeps all it knows in `mutants/`, where `mutmut run none` makes them. `docs/tests.md` says what became of them.
"""

import json
import sys
from pathlib import Path
from random import Random

KEPT = Path("mutants")


def drawn(start: float, end: float, seed: int = 0) -> list[str]:
    """A share of all mutants, as a stretch of one shuffled list."""
    names = sorted(name for file in KEPT.rglob("*.meta") for name in json.loads(file.read_text())["exit_code_by_key"])
    Random(seed).shuffle(names)
    return names[round(start * len(names)) : round(end * len(names))]


if __name__ == "__main__":
    print("\n".join(drawn(*map(float, sys.argv[1:]))))
