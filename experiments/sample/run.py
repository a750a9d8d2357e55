"""Run the README's first command and put the table that it prints into the README.

python experiments/sample/run.py [override ...]
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE = re.compile(r"(<!-- generated: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "run.py", f"hydra.run.dir={folder}", *sys.argv[1:]], cwd=ROOT, check=True)
        table = (Path(folder) / "table.md").read_text(encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert PLACE.search(text), "README.md has lost the marks of its generated table"
    readme.write_text(PLACE.sub(lambda marks: f"{marks[1]}{table.rstrip()}\n{marks[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
