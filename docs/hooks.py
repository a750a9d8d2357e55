"""Pages of the site that lie outside `docs/`: the experiments' READMEs with their plots, CONTRIBUTING and CHANGELOG.

Links are written as they work in a checkout (`../experiments/rivals/README.md`); here they lose one step up.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"Contributing": "CONTRIBUTING.md", "Changelog": "CHANGELOG.md"}
OUTSIDE = "|".join(["experiments/", *map(re.escape, PAGES.values())])


def on_config(config: Any) -> Any:
    results = [{_title(path): str(path.relative_to(ROOT))} for path in _results() if path.name == "README.md"]
    config["nav"] += [{"Results": results}, {"Project": [{title: page} for title, page in PAGES.items()]}]
    return config


def on_files(files: Files, config: Any) -> Files:
    for path in [*_results(), *(ROOT / page for page in PAGES.values())]:
        files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    if page.file.src_uri in PAGES.values():
        return re.sub(r"\]\(docs/", "](", markdown)
    if page.file.src_uri.startswith("experiments/"):
        return re.sub(r"\]\(((?:\.\./)+)docs/", r"](\1", markdown)
    return re.sub(rf"\]\(\.\./((?:\.\./)*(?:{OUTSIDE}))", r"](\1", markdown)


def _results() -> list[Path]:
    return sorted(path for path in (ROOT / "experiments").rglob("*") if path.suffix in (".md", ".png", ".svg"))


def _title(path: Path) -> str:
    heading = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    return heading.removeprefix("# ")
