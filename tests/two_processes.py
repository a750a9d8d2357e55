"""Two processes on this machine that torch has joined by gloo, as a run of several has them.

They are forked from the process that `command_line` keeps for this, which has imported everything.
"""

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from command_line import _forks, free_port

from ifguide.processes import Processes

TIMEOUT = 300


def in_two_processes(work, *arguments):
    """What `work(processes, *arguments)` returns in each of two processes.

    Args:
        work: a function at the top of a module; what it returns can be saved by torch.
        arguments: that can be pickled.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(2)]
        started = [
            _forks.Process(target=_run, args=(rank, port, file, work, arguments)) for rank, file in enumerate(files)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(TIMEOUT)
        codes = [process.exitcode for process in started]
        for process in started:
            process.kill()
        assert codes == [0, 0], codes
        return [torch.load(file, weights_only=False) for file in files]


def _run(rank, port, file, work, arguments):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                   "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}  # fmt: skip
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(work(Processes(rank, 2), *arguments), file)
    dist.destroy_process_group()
