"""A room imports only rooms above it, a stage file only `stage.py`; Hydra stays at the top."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import ifguide

ORDER = [
    "checks", "hub", "hardware", "processes", "workspace", "statistics", "opening", "models", "inference",
    "classifiers", "corpus", "objectives", "influence", "api", "training", "signals", "decoding", "methods",
    "evaluation", "cost", "report", "tracking", "stages",
]  # fmt: skip
HYDRA = {"configuration", "plan", "planner", "commands"}  # of stages/; beside them only run.py knows it
BELOW = {"stage", "findings", "argument_types"}  # of stages/; what each stage may import
WHOLE = {
    *HYDRA,
    "measuring",
    "post_training",
    "rules",
    "run",
    "row",
    "listing",
    "costing",
    "scoring",
    "study",
    "streams",
}  # files of stages/ that are about several stages
ROOT = Path(ifguide.__file__).parent
FILES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def room(name):
    return name.split(".")[1] if name.startswith("ifguide.") else None


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_room_has_a_place():
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1].split("ifguide/")[1]
    assert re.findall(r"^  (\w+)(?:\.py|/) ", page, re.MULTILINE) == ORDER
    assert {room_of(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_above_it(path):
    for name in imports(path):
        if room(name):
            assert ORDER.index(room(name)) <= ORDER.index(room_of(path)), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_hydra_stays_at_the_top(path):
    if room_of(path) != "stages" or path.stem not in HYDRA:
        assert not {"hydra", "omegaconf"} & {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "stages").glob("*.py")), ids=lambda path: path.stem)
def test_a_stage_file_imports_no_other_stage_file(path):
    if path.stem not in WHOLE:
        others = [name for name in imports(path) if name.startswith("ifguide.stages.")]
        assert set(others) <= {f"ifguide.stages.{name}" for name in BELOW} and (path.stem in BELOW) == (not others)


def test_files_are_small():
    long = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    data = {"phrases.py"}  # texts, no code
    assert not {str(path): lines for path, lines in long.items() if lines > 300 and path.name not in data}
    run = (ROOT.parent / "run.py").read_text(encoding="utf-8").splitlines()
    assert len(run) <= 90


def test_the_mathematics_needs_only_tensors():
    allowed = {"torch", "numpy", "collections", "dataclasses", "math", "typing", "ifguide"}
    losses = [*(ROOT / "objectives").glob("*.py"), *(ROOT / "methods").glob("*/loss.py")]
    for path in [*losses, ROOT / "influence" / "selection.py"]:
        names = list(imports(path))
        assert {name.split(".")[0] for name in names} <= allowed, path
        assert all(room(name) == "objectives" or name == "ifguide.corpus.masks" for name in names if room(name)), path


@pytest.mark.parametrize(
    "path", sorted(ROOT.parent.glob("experiments/*/*.py")), ids=lambda path: "/".join(path.parts[-2:])
)
def test_what_experiments_import_is_there(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ifguide"):
            module = importlib.import_module(node.module)
            assert not [one.name for one in node.names if not hasattr(module, one.name)], node.module
