"""The processes that do a piece of work together: each takes its share, and what they found is brought together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """One process among those that share a piece of work; all of them call the same methods in the same order.

    Args:
        rank: of this one, from 0 on.
        count: how many there are; of several, torch's process group is there.
        device: on which this one computes.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def no_bar(self) -> bool | None:
        """`disable` of a progress bar: the first process shows one, where there is a terminal."""
        return None if self.is_first else True

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of some items that this process takes: each its turn."""
        return items[self.rank :: self.count]

    def takes(self, number: int) -> bool:
        """Whether the item of this number is in its share."""
        return number % self.count == self.rank

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, in their order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def sums(self, tensors: Mapping[str, Tensor], onto: torch.device | None = None) -> dict[str, Tensor]:
        """Sums over the processes of tensors of the same name, in float64 and then as they were; a process that lacks
        one adds nothing to it.

        Args:
            tensors: name → tensor.
            onto: device of the sums of several processes; None: that of this one.
        """
        if self.count == 1:
            return dict(tensors)
        kinds: dict[str, tuple[torch.Size, torch.dtype]] = {}
        for kind in self.gather({name: (value.shape, value.dtype) for name, value in tensors.items()}):
            kinds |= kind
        found: dict[str, Tensor] = {}
        for name, (shape, dtype) in sorted(kinds.items()):
            work = torch.float64 if dtype.is_floating_point else dtype
            mine = tensors.get(name)
            total = torch.zeros(shape, dtype=work, device=self.device)
            if mine is not None:
                total += mine.to(total)
            dist.all_reduce(total)
            found[name] = total.to(device=onto or self.device, dtype=dtype)
        return found

    def fill(self, rows: NDArray[np.int64], *arrays: NDArray[Any]) -> None:
        """Put what the other processes found into arrays of which this one has filled some rows.

        Args:
            rows: which this one has.
            arrays: [all rows, …] each.
        """
        if self.count == 1:
            return
        for theirs, parts in self.gather((rows, [array[rows] for array in arrays])):
            for array, part in zip(arrays, parts, strict=True):
                array[theirs] = part

    def agree(self, error: Exception | None) -> None:
        """Raise in all processes what one of them ran into: a process alone would leave the others waiting for it.

        Args:
            error: of this one; None: it went well.
        """
        for found in self.gather(error):
            if found is not None:
                raise found


def joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Row numbers in one array, of as many parts as there are, or none."""
    return np.concatenate([np.zeros(0, np.int64), *parts])


ALONE = Processes()
