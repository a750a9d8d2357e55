"""Layers that are given the tokens of all blocks as rows: what counts examples by the first dimension must get a block
for each."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

TRIED = 8  # tokens of a text that a model is tried on
SEARCHED = 64  # blocks that a layer may be looked for in


def flattened_layers(
    model: PreTrainedModel, layers: Sequence[str], blocks: NDArray[np.int64], batch_size: int
) -> tuple[list[str], int]:
    """The layers that are not given a row of inputs for each block, but the tokens of all blocks as rows.

    Args:
        model: as it is.
        layers: names of its layers.
        blocks: [blocks, T] token ids.
        batch_size: blocks at a time.

    Returns:
        Names; and the batch size, which is 1 where some are given only the tokens that are routed to them.

    Raises:
        ValueError: no block calls a layer.
    """
    tokens = torch.from_numpy(np.ascontiguousarray(blocks[:2])).to(model.device)
    called, flat, routed = set[str](), set[str](), False
    handles = []
    for name in layers:

        def note(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            nonlocal routed
            called.add(name)
            if inputs[0].ndim == 2:
                flat.add(name)
                routed |= len(inputs[0]) != tokens.numel()

        handles.append(model.get_submodule(name).register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
            rest = iter(range(2, min(len(blocks), SEARCHED)))
            while len(called) < len(layers) and (row := next(rest, None)) is not None:
                routed = True  # some tokens reach it, if not these
                model(input_ids=torch.from_numpy(blocks[row : row + 1]).to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if never := [name for name in layers if name not in called]:
        raise ValueError(_never_called(model, never))
    return [name for name in layers if name in flat], 1 if routed else batch_size


def check_called(model: PreTrainedModel, layers: Sequence[str]) -> None:
    """Raise ValueError where a model on the meta device calls none of some layers, so that this is told before it is
    trained; a model that cannot be run there is found out later."""
    called = set[str]()
    for name in layers:
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.add(name))
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, TRIED, dtype=torch.long, device="meta"), use_cache=False)
    except Exception:  # of any kind: what depends on values does not run there
        return
    if never := [name for name in layers if name not in called]:
        raise ValueError(_never_called(model, never))


def _never_called(model: nn.Module, layers: Sequence[str]) -> str:
    return (
        f"{layers[0]} is called by none of the blocks: {type(model).__name__} reads its weight otherwise, or routes no "
        "token there; leave it out (influence.layers), or use curvature=identity"
    )


def give_by_block(model: nn.Module, name: str, blocks: Callable[[], int]) -> None:
    """Let a layer of a model have its rows block by block; `blocks` tells how many are in the batch."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, _ByBlock(model.get_submodule(name), blocks))


class _ByBlock(nn.Module):
    def __init__(self, layer: nn.Module, blocks: Callable[[], int]) -> None:
        super().__init__()
        self.layer, self._blocks = layer, blocks

    def forward(self, rows: Tensor) -> Tensor:
        blocks = self._blocks()
        given = rows[None] if blocks == 1 else rows.unflatten(0, (blocks, -1))
        outputs: Tensor = self.layer(given)
        return outputs.flatten(0, 1)
