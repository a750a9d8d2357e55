"""Signals that end a run: whatever is being done ends there, and what is on disk is whole at any moment.

SIGUSR1 is what SLURM sends some time before its limit (`#SBATCH --signal=USR1@120`): a training of one process saves a
checkpoint at the end of its step first, and the job is put back into the queue. Lightning has a handler of its own for
it, which keeps its checkpoint elsewhere; it steps back where there is one.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from ifguide.training.checkpoints import SaveWhenAsked
from ifguide.workspace import global_rank

ONE_SIGNAL = 2.0  # seconds within which the same one counts once
PATIENCE = 100.0  # seconds that a program has to end
JOB = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID")

_received: list[signal.Signals] = []
_programs: list[subprocess.Popen[bytes]] = []  # that run, whichever thread waits for them


def stopped() -> str | None:
    """Name of the signal that ended the run; None where there was none."""
    return _received[0].name if _received else None


@contextmanager
def listening() -> Iterator[None]:
    """Within this context SIGINT, SIGTERM and SIGUSR1 end what is done, in one line and with exit code 128 + n."""

    last = -ONE_SIGNAL

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if number in _received and time.monotonic() - last < ONE_SIGNAL:
            return  # sent to a group of processes, and passed on by one of them
        _received.append(signal.Signals(number))
        last = time.monotonic()
        for program in _programs:
            program.send_signal(number)
        if number != signal.SIGUSR1 or not SaveWhenAsked.ask():
            raise KeyboardInterrupt

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # the latter is Lightning's answer to the former
        if not _received:
            raise
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if _received:
        print(f"stopped by {stopped()}: what is done is kept, and the same command goes on from there", file=sys.stderr)
        if _received[0] == signal.SIGUSR1 and global_rank() == 0:
            requeue()
        sys.exit(128 + _received[0])


def run_through(command: Sequence[str], env: Mapping[str, str], *, cwd: Path | None = None) -> int:
    """Exit code of a program that any thread runs to its end, in a folder.

    A signal that ends this process is passed on, and the program has some time to end by itself; it is this process
    that puts a job back into the queue.
    """
    program = subprocess.Popen(command, env={name: value for name, value in env.items() if name not in JOB}, cwd=cwd)
    _programs.append(program)
    try:
        return program.wait()
    except KeyboardInterrupt:
        if not _received:
            program.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            program.wait(PATIENCE)
        raise
    finally:
        _programs.remove(program)
        if program.poll() is None:
            program.kill()
            program.wait()


def requeue() -> None:
    """Put this job of SLURM back into the queue, where it is one."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    if not re.fullmatch(r"\d+(_\d+)?", job):
        return
    try:
        code = subprocess.run(["scontrol", "requeue", job], check=False).returncode
        failure = f"code {code}" if code else None
    except OSError as error:
        failure = error.strerror
    said = f"was not put into the queue again (scontrol: {failure})" if failure else "is in the queue again"
    print(f"job {job} {said}", file=sys.stderr)
