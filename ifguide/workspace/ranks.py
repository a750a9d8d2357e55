"""Which process of a distributed run this is, from the launcher's environment."""

import os
import time
from pathlib import Path


def global_rank() -> int:
    """Rank of this process among all processes of the run, from the launcher's environment; 0 when alone."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1":
        return int(os.environ["SLURM_PROCID"])
    local, node = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("NODE_RANK", 0))
    world, nodes = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("NUM_NODES", 1))
    return node * max(world // max(nodes, 1), 1) + local


def wait_for(*paths: Path, poll_seconds: float = 0.2) -> Path:
    """Wait until rank 0 has published one of some files, and return it; end this process when its parent has gone."""
    parent = os.getppid()
    while True:
        for path in paths:
            if path.exists():
                return path
        if os.getppid() != parent:
            raise SystemExit("the process of rank 0 has ended")
        time.sleep(poll_seconds)
