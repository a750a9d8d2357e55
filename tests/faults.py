"""What can go wrong with a machine, injected into `run.py stage=data`, and the page that says what then happens.

    python tests/faults.py

writes `docs/faults.md` from this table, which `tests/test_faults.py` runs, and from the counts of `tests/fuzz.py`.
"""

import json
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
COUNTS = Path(__file__).with_name("fuzz.json")
NOBODY = 65534


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))


def become_nobody():
    os.setuid(NOBODY)


def put_file(workspace: Path):
    workspace.mkdir()
    (workspace / ".building").touch()


def put_link(workspace: Path):
    workspace.mkdir()
    (workspace / ".locks").symlink_to("nowhere")


def change_manifest(workspace: Path):
    (manifest,) = workspace.glob("data-*/manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"files": ["train.arrow"]}))


def cut_artifact(workspace: Path):
    (file,) = workspace.glob("data-*/train.arrow")
    file.write_bytes(file.read_bytes()[:100])


@dataclass(frozen=True)
class Fault:
    """A fault, and what comes of it.

    Attributes:
        name: what happens.
        said: what is printed, with `…` for anything.
        code: exit code.
        mended: what is to be done before the same command ends as it would have without the fault; empty: nothing;
            None: it did end so.
        overrides: that bring it about.
        spoil: what is done to the workspace before.
        finished: whether the workspace holds what is asked for.
        before: called in the process before it begins.
        out: where standard output goes.
    """

    name: str
    said: str
    code: int = 1
    mended: str | None = ""
    overrides: tuple[str, ...] = ()
    spoil: Callable[[Path], None] | None = None
    finished: bool = False
    before: Callable[[], None] | None = None
    out: str | None = None


FAULTS = [
    Fault(
        "files may not grow further (`ulimit -f`, SIGXFSZ)",
        "error: data-… cannot be built in …: File too large: raise the limit of the size of files (ulimit -f "
        "unlimited)",
        mended="raise the limit", before=limit_files,
    ),
    Fault(
        "standard output is full",
        "nobody reads what is printed (No space left on device): the run goes on, see its run.log",
        code=0, mended=None, out="/dev/full",
    ),
    Fault(
        "the run's folder cannot be written to",
        "error: hydra.run.dir=/proc/out: it cannot be written to (…); choose another folder",
        mended="another folder", overrides=("hydra.run.dir=/proc/out",),
    ),
    Fault(
        "the workspace is another user's, and holds all that is needed", "", code=0, mended=None, finished=True,
        before=become_nobody,
    ),
    Fault(
        "the workspace is another user's, and lacks something",
        "error: paths.workspace=…: data-… is to be built there, and … is no folder that can be written to; "
        "choose another folder",
        mended="another folder", overrides=("data.seed=1",), finished=True, before=become_nobody,
    ),
    Fault(
        "a file stands where `.building` should",
        "error: data-… cannot be built in …: ….building…: a file or a link stands where a folder should; remove it",
        mended="remove it", spoil=put_file,
    ),
    Fault(
        "a dangling link stands where `.locks` should",
        "error: data-… cannot be built in …: ….locks: File exists: a file or a link stands where a folder "
        "should; remove it",
        mended="remove it", spoil=put_link,
    ),
    Fault(
        "a manifest is JSON of another shape",
        "error: …manifest.json is no manifest of an artifact; delete the folder to build it again",
        mended="delete the folder", spoil=change_manifest, finished=True,
    ),
    Fault(
        "a file of an artifact is cut",
        "error: …train.arrow has 100 bytes, its manifest says …; delete the folder to build it again",
        mended="delete the folder", spoil=cut_artifact, finished=True,
    ),
    Fault(
        "a configuration names a function to call that is not of this project",
        "error: data._target_=os.system: a configuration may name what is in …",
        mended="take it out", overrides=("data._target_=os.system",),
    ),
]  # fmt: skip


HEAD = """# Faults

What happens when a machine fails, a disk is full or a file is damaged: a line that says what is needed, where, and the way
out; nothing that was finished is lost, and nothing that is damaged is used. This page is written by `python tests/faults.py`
from the table that `tests/test_faults.py` runs, on `run.py stage=data`.

| fault | what is printed | exit code | then the same command |
|---|---|---:|---|
"""  # noqa: E501

REST = """
`…` stands for names and paths. *Ends as without it*: with the same bytes as a run that was not disturbed.

## In the midst of work

| fault | what happens |
|---|---|
| SIGINT, SIGTERM | one line, exit code 128 + n; a training goes on at its last checkpoint, scoring at its last shard |
| SIGUSR1, which SLURM sends before its limit | as these; a training of one process saves a checkpoint at the end of its step first; then the job is put back into the queue ([Sweeps](howto/sweeps.md#before-slurms-time-limit)) |
| SIGKILL, a machine that stops | the same, without the line; its lock ends with the process |
| a checkpoint or a shard is torn | said; the checkpoint before it is taken, the shard is scored again |
| the disk is full | one line that names the artifact and the workspace; what can be resumed stays |
| the workspace is removed | one line; the same command builds again what is gone |
| clocks are set back, or differ | nothing: checkpoints are ordered by their step, and waiting is measured by no clock that can be set |
| a launcher's `RANK` is left over | a run of one process forgets it; one of several waits ten minutes for its first process, and says which variables to unset |
| `sbatch` without `srun` | one line, before anything is built, where the job has several tasks and one was started |
| several processes on one workspace | each artifact is built once; while one builds it, the others build what does not need it, or wait |
| a file system without locks | said once; files stand for locks there, which a machine that dies leaves behind |
| the workspace is moved | nothing: artifacts hold no absolute paths, and runs look for theirs in `paths.workspace` too |
| standard output is closed, as by `| head` | one line; the run goes on |

## What a configuration and data may do

`_target_` may name what is in `ifguide`, `pytorch_lightning`, `torch.nn` and `torch.optim`; more with
`IFGUIDE_TARGETS=mine,theirs` in the environment. Names of behaviours, classifiers, tasks and utilities cannot leave a run's
folder. Text of data is escaped in pages and tables; in `table.csv` what a spreadsheet would compute begins with `'`.

## Files that would fill the memory

A packed file (`.gz`, `.xz`, `.parquet`) may become a hundred times as long as it is, and 64 MiB in any case; one that goes on is
refused, and is read when it is given unpacked. A line has 64 million characters at most, a row of a Parquet file 64 MiB, and rows
are read by fewer at a time the larger they are: a text that many of them share is in memory once. Arrays are mapped, or of files
that are not compressed, so that a shape which is larger than its file is found before it is made. A run's YAML has no aliases. Tests
read such files (`tests/corpus/test_bombs.py`) in a process that may take 768 MiB more than it has. Not covered: lists in a Parquet
file of billions of equal items, which `ulimit -v` bounds, and ends in a line.

## Damaged files

Readers were fed with mutations of good files: values replaced, and bytes changed, taken out, repeated or put in. Each case of
{cases:,} (seed {seed}) ended in a value or in a ValueError of one line (`python tests/fuzz.py {cases} {seed} {first}`).

| reader | a value | a ValueError |
|---|---:|---:|
"""  # noqa: E501


def page() -> str:
    rows = []
    for fault in FAULTS:
        said = f"`{fault.said}`" if fault.said else "nothing"
        then = "is not needed: it ended as without it" if fault.mended is None else "ends as without it"
        then = f"{fault.mended}: {then}" if fault.mended else then
        rows.append(f"| {fault.name} | {said} | {fault.code} | {then} |\n")
    counts = json.loads(COUNTS.read_text(encoding="utf-8"))
    readers = [f"| {name} | {one['value']:,} | {one['ValueError']:,} |\n" for name, one in counts["readers"].items()]
    rest = REST.format(cases=counts["cases"], seed=counts["seed"], first=counts["first"])
    rest = rest.replace("`| head`", "`\\| head`")
    return HEAD + "".join(rows) + rest + "".join(readers)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
