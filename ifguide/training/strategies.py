"""How several processes train one model: each with a whole copy of it, or with a share of its weights.

`fsdp` is torch's fully sharded data parallelism (`fully_shard`; Zhao et al., 2023, arXiv 2304.11277): weights,
gradients and the optimiser's state are split over the processes, and each decoder block's weights come together while
it computes. Lightning's own `fsdp` is the older one, under which each process would clip by a norm of its own.
"""

import copy
from importlib.util import find_spec
from typing import Any

import torch
from pytorch_lightning.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
    StrategyRegistry,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ifguide.models import decoder_blocks

FSDP, DEEPSPEED = "fsdp", "deepspeed"
# parts of names: norms of shares; weights that stay apart; processes that keep their results; hardware that is not ours
UNFIT = ("fsdp_", "stage_3", "fork", "spawn", "notebook", "single_", "xla")


def check_strategy(strategy: str | Strategy, *, precision: str, compile: bool, fused_loss: bool | None) -> None:
    """Raise ValueError for a strategy that is not there, or that does not go with other settings of a trainer."""
    if isinstance(strategy, FSDPStrategy) or (isinstance(strategy, str) and strategy.startswith("fsdp_")):
        raise ValueError(f"strategy={strategy}: clips by a norm of each process's own share; use fsdp")
    if shares_weights(strategy):
        if compile:
            raise ValueError("compile=true: not of a model whose weights are shared out (strategy=fsdp)")
        if fused_loss:
            raise ValueError("fused_loss=true: reads the head's weights by themselves, which strategy=fsdp shares out")
        if precision not in ("32-true", "bf16-mixed", "bf16-true"):
            raise ValueError(f"precision={precision}: strategy=fsdp computes in 32-true, bf16-mixed or bf16-true")
    elif is_deepspeed(strategy):
        if "stage_3" in str(strategy):
            raise ValueError(
                f"strategy={strategy}: weights that DeepSpeed shares out are not put together here; use fsdp"
            )
        if precision != "32-true":
            raise ValueError(
                f"precision={precision}: DeepSpeed would round the trained weights and keep the exact ones to itself; "
                "use 32-true, or strategy=fsdp"
            )
        if find_spec("deepspeed") is None:
            raise ValueError(
                f"strategy={strategy}: the package deepspeed is not installed; pip install 'ifguide[deepspeed]', or "
                "use strategy=fsdp"
            )
    elif isinstance(strategy, str) and strategy != "auto" and strategy not in known_strategies():
        raise ValueError(f"strategy={strategy}; known: auto, {', '.join(known_strategies())}")


def known_strategies() -> list[str]:
    names = [str(name) for name in StrategyRegistry.available_strategies()]
    return sorted(name for name in names if not any(part in name for part in UNFIT))


def shares_weights(strategy: Any) -> bool:
    """Whether no process has the whole model while it is trained."""
    return strategy == FSDP or isinstance(strategy, ModelParallelStrategy)


def is_deepspeed(strategy: Any) -> bool:
    return isinstance(strategy, DeepSpeedStrategy) or str(strategy).startswith(DEEPSPEED)


def of_lightning(strategy: str | Strategy, processes: int, *, shares: bool) -> str | Strategy:
    """The strategy of a trainer.

    Args:
        strategy: by name, or as an object.
        processes: of the run.
        shares: whether weights may be shared out; otherwise each process has a whole copy, whatever the strategy.
    """
    if not shares and (shares_weights(strategy) or is_deepspeed(strategy)):
        return "ddp" if processes > 1 else "auto"
    if strategy == FSDP:  # one file for a checkpoint: it is whole once it has its name
        return ModelParallelStrategy(
            data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return strategy


def shared_out(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """A copy of a model whose weights are shared out over processes: each decoder block's together, then the rest.

    Args:
        model: the same in each process.
        mesh: of the processes, one-dimensional.
    """
    copied = copy.deepcopy(model)
    for block in decoder_blocks(copied)[1]:
        fully_shard(block, mesh=mesh)
    fully_shard(copied, mesh=mesh)
    return copied


@torch.no_grad()
def put_together(shared: nn.Module, whole: nn.Module) -> None:
    """Copy the weights of a model that is shared out into a whole one of its kind, in all processes at once."""
    into = whole.state_dict()
    for name, value in shared.state_dict().items():
        into[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)


def is_finite(value: Tensor) -> bool:
    """Whether all numbers of a weight are finite, in whichever process they are."""
    finite: Any = torch.isfinite(value).all()
    return bool(finite.full_tensor() if isinstance(value, DTensor) else finite)
