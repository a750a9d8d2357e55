"""Which process of a distributed run this is, from the launcher's environment."""

import os
import time
import uuid
from collections.abc import Callable

# by which launchers tell a process that it is one of several; SLURM's other names may be in a configuration
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "NUM_NODES", "SLURM_NTASKS_PER_NODE",
            "SLURM_NTASKS")  # fmt: skip


# by which a run of several processes is known; ours comes first, as Lightning sets an address later than it starts
RUN_ID = "IFGUIDE_RUN_ID"
RUN_NAMES = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID", "MASTER_ADDR", "MASTER_PORT")


def global_rank() -> int:
    """Rank of this process among all processes of the run, from the launcher's environment; 0 when alone."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1":
        return int(os.environ["SLURM_PROCID"])
    local, node = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("NODE_RANK", 0))
    world, nodes = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("NUM_NODES", 1))
    return node * max(world // max(nodes, 1), 1) + local


def local_rank() -> int:
    """Rank of this process among those of its node, from the launcher's environment; 0 when alone."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))


def run_id() -> str:
    """What all processes of this run share and those of another do not, from the launcher's environment.

    A process that no launcher started is the first of a run, and names it for those that it will start.
    """
    if RUN_ID not in os.environ:
        known = [os.environ[name] for name in RUN_NAMES if name in os.environ]
        os.environ[RUN_ID] = " ".join(known) or uuid.uuid4().hex
    return os.environ[RUN_ID]


def forget_ranks() -> None:
    """For a run of one process: what a launcher says of others is of other runs, which it started beside this one
    (`srun -n 2 python run.py …`), or left from an earlier one."""
    for name in (*LAUNCHED, RUN_ID):
        os.environ.pop(name, None)


def unranked() -> dict[str, str]:
    """The environment without what a launcher says of ranks, for a process that starts others by itself."""
    return {name: value for name, value in os.environ.items() if name not in (*LAUNCHED, RUN_ID)}


def wait_until(
    happened: Callable[[], bool],
    *,
    alive: Callable[[], bool] = lambda: False,
    limit_seconds: float = 600,
    poll_seconds: float = 0.2,
) -> None:
    """Wait for something that rank 0 does; end this process when its parent has gone.

    Args:
        happened: whether it is done.
        alive: whether rank 0 is at work.
        limit_seconds: how long neither may be.
        poll_seconds: between two looks.

    Raises:
        ValueError: for so long neither was so.
    """
    parent, last = os.getppid(), time.monotonic()
    while not happened():
        if os.getppid() != parent:
            raise SystemExit("the process of rank 0 has ended")
        if alive():
            last = time.monotonic()
        if time.monotonic() - last > limit_seconds:
            said = ", ".join(name for name in LAUNCHED if name in os.environ)
            raise ValueError(
                f"this is process {global_rank()} of a run, says its launcher, and for {limit_seconds:g} s nothing was "
                f"seen of the first one; start all, or unset {said}"
            )
        time.sleep(poll_seconds)


def check_launched(processes: int) -> None:
    """Raise ValueError in a batch job of SLURM whose processes nothing has started.

    In the script of `sbatch`, SLURM says how many tasks there are but starts one; `srun` starts all, and leaves the
    number of its step. Lightning would wait for the others.
    """
    job, started = os.environ.get("SLURM_JOB_NAME"), "SLURM_STEP_NUM_TASKS" in os.environ
    alone = "RANK" in os.environ or "LOCAL_RANK" in os.environ  # torchrun, or Lightning, starts them
    if (
        processes > 1
        and "SLURM_NTASKS" in os.environ
        and not started
        and not alone
        and job not in ("bash", "interactive")
    ):
        raise ValueError(
            f"trainer.devices and trainer.num_nodes ask for {processes} processes, and this job of SLURM started one: "
            "write `srun python run.py …` in the script of sbatch, or unset SLURM_NTASKS to start them from here"
        )
