"""Faults of machines on the command line: one line each, nothing lost, nothing damaged used."""

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from command_line import SMOKE, start
from faults import FAULTS, NOBODY, PAGE, become_nobody, page
from fuzz import outcomes

from ifguide.report.formats import no_formula

HERE = Path(__file__).resolve().parent
SECRET = "a-key-that-nobody-may-read"


def test_the_page_is_that_of_the_table():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/faults.py"


def test_readers_end_in_a_value_or_in_one_line():
    found = outcomes(300, seed=1)
    assert len(found) == 26 and sum(sum(one.values()) for one in found.values()) == 300


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_nothing_of_a_table(text):
    assert no_formula(text) == f"'{text}" and no_formula("x=1") == "x=1" and no_formula("") == ""


def ran(folder: Path, *overrides, before=None, out=None, **environment):
    """Exit code and what was printed on standard error, of `stage=data` in this folder."""
    err = folder / "err"
    err.unlink(missing_ok=True)
    err.touch(0o666)
    process = start(
        folder, SMOKE, "stage=data", *overrides, before=before, out=out or os.devnull, err=err, **environment
    )
    process.join(300)
    return process.exitcode, err.read_text()


def contents(workspace: Path):
    """What the artifacts hold, but for how long they took."""
    return {file.relative_to(workspace): file.read_bytes() for file in workspace.glob("data-*/**/*")
            if file.is_file() and file.name != "manifest.json"}  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    """The workspace of a run that nothing disturbed, in a folder that anyone may enter."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        code, said = ran(folder, "hydra.run.dir=run", WANDB_API_KEY=SECRET, HF_TOKEN=SECRET)
        assert code == 0, said
        yield folder


@pytest.mark.slow
def test_nothing_that_is_left_holds_a_secret_or_an_absolute_path(whole):
    """So that artifacts can be moved to another machine, and shown."""
    for file in filter(Path.is_file, whole.rglob("*")):
        content = file.read_bytes()
        assert SECRET.encode() not in content, file
        assert file.is_relative_to(whole / "run") or str(whole).encode() not in content, file


def others_may_read(*places):
    """Whether every folder on the way to these, and these, are open to all users."""
    folders = {folder for place in places for folder in (Path(place), *Path(place).parents)}
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in folders)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_ends_in_one_line_and_loses_nothing(fault, whole):
    if fault.before is become_nobody and os.getuid() != 0:
        pytest.skip("only root can become another user")
    if fault.before is become_nobody and not others_may_read(HERE, sys.prefix):
        pytest.skip("the checkout or its environment lies where another user cannot read")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        (folder / "own").mkdir()
        shutil.chown(folder / "own", NOBODY) if os.getuid() == 0 else None
        workspace = folder / "workspace"
        if fault.finished:
            shutil.copytree(whole / "workspace", workspace)
        if fault.spoil is not None:
            fault.spoil(workspace)
        where = f"paths.workspace={workspace}"
        code, said = ran(folder, where, f"hydra.run.dir={folder}/own/run", *fault.overrides, before=fault.before,
                         out=fault.out)  # fmt: skip
        assert code == fault.code and "Traceback" not in said, said
        lines = [line for line in said.splitlines() if line.startswith(("error", "nobody"))]
        assert len(lines) == bool(fault.said), said
        for line in lines:
            pattern = ".*".join(map(re.escape, fault.said.split("…")))
            assert re.match(pattern, line), line
        if fault.mended:
            for spoiled in (workspace / ".building", workspace / ".locks") if fault.spoil else ():
                if not spoiled.is_dir():
                    spoiled.unlink(missing_ok=True)
            if fault.spoil is not None and fault.finished:
                shutil.rmtree(next(workspace.glob("data-*")))
            code, said = ran(folder, where, f"hydra.run.dir={folder}/own/run")
            assert code == 0, said
        assert contents(workspace) == contents(whole / "workspace")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_on_one_fresh_workspace_build_once(count, whole, tmp_path):
    where = f"paths.workspace={tmp_path}/workspace"
    processes = [start(tmp_path, SMOKE, "stage=data", where, f"hydra.run.dir=run{n}", out=tmp_path / f"out{n}")
                 for n in range(count)]  # fmt: skip
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    built = [n for n in range(count) if "(found)" not in (tmp_path / f"out{n}").read_text()]
    assert len(built) == 1 and contents(tmp_path / "workspace") == contents(whole / "workspace")
    runs = [json.loads((tmp_path / f"run{n}" / "run.json").read_text()) for n in range(count)]
    assert all(run == runs[0] for run in runs)
