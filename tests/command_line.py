"""`run.py` as a user types it, in a process of its own.

Most of a short run's time goes into imports. Unless a test asks for a fresh interpreter, its process is forked from one
that has imported everything and done nothing.
"""

import atexit
import csv
import functools
import gc
import logging
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from composing import CONF, FILES, composed, quickly
from hydra._internal.utils import _run_hydra, get_args_parser
from pytorch_lightning.utilities import rank_zero_only

ROOT = Path(__file__).parents[1]
SMOKE = "+debug=smoke"
TIMEOUT = 600

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["ifguide.stages.commands", "kronfluence", "wandb", "profanity_check", "torch._decomp",
     "transformers.models.gpt_neox.modeling_gpt_neox"]
)  # fmt: skip


def start(folder, *arguments, before=None, out=os.devnull, err=os.devnull, **environment_too):
    """A process, forked and running, that its `kill` kills with all that it started.

    Args:
        folder: where it works.
        arguments: of run.py.
        before: called first, in the process.
        out, err: files of what it prints.
        environment_too: variables.
    """
    environment = _environment(environment_too)
    composed(SMOKE)  # of which its process begins with the files
    process = _forks.Process(target=_main, args=(folder, arguments, environment, before, out, err, FILES))
    process.start()
    return process


def run(folder, *arguments, check=True, fresh=False, **environment_too):
    """Run to the end; returns what `subprocess.run` does."""
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    if fresh:
        environment = _environment(environment_too)
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=TIMEOUT)
    else:
        with tempfile.TemporaryDirectory() as place:
            files = [Path(place) / name for name in ("out", "err")]
            process = start(folder, *arguments, out=files[0], err=files[1], **environment_too)
            process.join(TIMEOUT)
            if process.exitcode is None:
                process.kill()
                raise TimeoutError(f"{command} still runs after {TIMEOUT} s")
            out, err = (file.read_text(encoding="utf-8") for file in files)
        result = subprocess.CompletedProcess(command, process.exitcode, out, err)
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def run_in_two_processes(folder, *arguments):
    """To the end in two, which nothing but their surroundings joins: as `torchrun` starts them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    files = [Path(folder) / f"err{rank}" for rank in range(2)]
    started = [
        start(folder, *arguments, "hydra.run.dir=outputs/of/both", err=file, before=functools.partial(_ranked, rank),
              **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank, file in enumerate(files)
    ]  # fmt: skip
    for process in started:
        process.join(TIMEOUT)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0, 0], [file.read_text()[-2000:] for file in files]


def _ranked(rank):
    rank_zero_only.rank = rank  # which Lightning reads when it is imported


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_here(folder, *arguments):
    """The same command in this process, and its exit code: for tests of what runs leave, not of what a process does."""
    module = runpy.run_path(str(ROOT / "run.py"), run_name="run")
    root, parser = logging.getLogger(), get_args_parser()
    handlers, level, place = root.handlers[:], root.level, os.getcwd()
    module["failures"].clear()
    try:
        os.chdir(folder)
        with quickly(), patch.dict(os.environ, _environment({})), patch.object(sys, "argv", ["run.py", *arguments]):
            given = parser.parse_args(list(arguments))
            _run_hydra(given, parser, module["main"].__wrapped__, str(CONF), "config")
        return 1 if module["failures"] else 0
    finally:
        module["failures"].clear()
        os.chdir(place)
        root.handlers[:] = handlers
        root.setLevel(level)


def wait_until(happened, seconds=60):
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.02)


def _environment(too):
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return kept | {"WANDB_MODE": "offline"} | too


def _main(folder, arguments, environment, before, out, err, files):
    gc.freeze()  # what is imported: no collection looks through it, or writes to its pages
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(ROOT / "run.py"), *arguments]
    if before is not None:
        before()
    FILES.update(files)
    try:
        with quickly():
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a fork ends without


def assert_report(folder, methods=("none", "ifguide"), seeds=("1", "2")):
    for name in ("report.html", "table.md", "table.tex", "table.csv", "frontier.png", "frontier.svg"):
        assert (folder / name).stat().st_size > 0
    with (folder / "table.csv").open() as table:
        rows = {row["method"]: row for row in csv.DictReader(table)}
    for method in methods:
        assert rows[method]["seeds"] == " ".join(seeds), method
        assert method == "none" or rows[method]["reference"] == "none"
        assert method == "none" or rows[method]["toxicity.all.toxic_fraction_difference"]
