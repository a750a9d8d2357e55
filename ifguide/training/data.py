"""Blocks and mask, joined by row, in an order that is a pure function of (seed, step)."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.blocks import Split
from ifguide.corpus.masks import TokenMask

FILLING = "filling"  # in a batch that does not count


class BlockDataset(Dataset[dict[str, Tensor]]):
    """Rows → one batch: `input_ids` [rows, T] and, where there is a mask, `mask` [rows, T].

    Raises:
        ValueError: a mask whose shape is not that of the blocks.
    """

    def __init__(self, split: Split, mask: TokenMask | None = None) -> None:
        if mask is not None and mask.shape != split.shape:
            raise ValueError(f"the mask has shape {mask.shape}, the corpus has {split.shape}: it is another corpus's")
        self._split, self.mask = split, mask

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        batch = {"input_ids": torch.from_numpy(self._split.tokens(rows))}
        if self.mask is not None:
            batch["mask"] = torch.from_numpy(self.mask[rows])
        return batch


def hold_out(count: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Random rows to train on, and the share of them to validate on; both in ascending order."""
    order = np.random.default_rng([seed, 1]).permutation(count)
    held = round(share * count)
    return np.sort(order[held:]), np.sort(order[:held])


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, blocks: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(blocks)


def rows_of_step(step: int, *, seed: int, batch_size: int, blocks: int) -> NDArray[np.int64]:
    """Rows of one optimiser step. Every epoch is a fresh permutation; a step may straddle two epochs."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // blocks
    return np.concatenate(
        [epoch_order(seed, int(epoch), blocks)[places[epochs == epoch] % blocks] for epoch in np.unique(epochs)]
    )


class BatchOrder(Sampler[NDArray[np.int64]]):
    """Micro-batches of one process, from any step on.

    Args:
        steps: optimiser steps in total.
        accumulate: micro-batches per step and process.
        rank, processes: this process gets every `processes`-th row of a step.
        first_step: where to begin; `len` still counts from the beginning, as the trainer does after a resume.
        seed, batch_size, blocks: as in `rows_of_step`.
    """

    def __init__(
        self,
        *,
        steps: int,
        accumulate: int,
        rank: int,
        processes: int,
        first_step: int,
        seed: int,
        batch_size: int,
        blocks: int,
    ) -> None:
        self.steps, self.accumulate, self.rank, self.processes = steps, accumulate, rank, processes
        self.first_step, self.seed, self.batch_size, self.blocks = first_step, seed, batch_size, blocks

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for step in range(self.first_step, self.steps):
            rows = rows_of_step(step, seed=self.seed, batch_size=self.batch_size, blocks=self.blocks)
            yield from np.split(rows[self.rank :: self.processes], self.accumulate)


class Examples(Protocol):
    """What can be trained on: rows → one batch of tensors, among them `input_ids`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.int64]) -> dict[str, Tensor]: ...


class _Filled(Dataset[dict[str, Tensor]]):
    """Examples, and for no rows a batch that does not count: all processes take as many steps, or wait for ever."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __getitem__(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        if len(rows):
            return self._examples[rows]
        return {**self._examples[np.zeros(1, np.int64)], FILLING: torch.ones(1)}


class ExampleDataModule(pl.LightningDataModule):
    """Training and validation batches for a trainer.

    Args:
        examples: to train on.
        validation: held out; None or empty: no validation.
        steps, batch_size, accumulate, seed: as in `BatchOrder`.
        validation_batch: examples per validation batch.

    Attributes:
        validates: whether there is a validation.
    """

    def __init__(
        self,
        *,
        examples: Examples,
        validation: Examples | None,
        steps: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        validation_batch: int,
    ) -> None:
        super().__init__()
        self._examples, self._validation, self._validation_batch = examples, validation, validation_batch
        self.validates = bool(validation)
        self.accumulate, self._steps, self._batch_size, self._seed = accumulate, steps, batch_size, seed

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        order = BatchOrder(
            steps=self._steps,
            accumulate=self.accumulate,
            rank=trainer.global_rank,
            processes=trainer.world_size,
            first_step=trainer.global_step,
            seed=self._seed,
            batch_size=self._batch_size,
            blocks=len(self._examples),
        )
        return DataLoader(self._examples, sampler=order, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self._validation is None or not self.validates:
            return []
        trainer = self.trainer
        assert trainer is not None
        rows = np.arange(len(self._validation))
        mine, most = rows[trainer.global_rank :: trainer.world_size], len(rows[:: trainer.world_size])
        batches = np.array_split(mine, -(-most // self._validation_batch))
        return DataLoader(_Filled(self._validation), sampler=batches, batch_size=None)


class BlockDataModule(ExampleDataModule):
    """Blocks and their mask.

    Args:
        train: training blocks.
        mask: tokens that the objective treats differently; None for objectives without one.
        validation: held-out blocks, evaluated without a mask.
        steps, batch_size, accumulate, seed, validation_batch: as in `ExampleDataModule`.
        tokenizer: of the corpus, for callbacks that encode texts.
    """

    def __init__(
        self,
        *,
        train: Split,
        mask: TokenMask | None,
        validation: Split | None,
        steps: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        validation_batch: int,
        tokenizer: PreTrainedTokenizerFast | None = None,
    ) -> None:
        self._dataset = BlockDataset(train, mask)
        super().__init__(
            examples=self._dataset,
            validation=BlockDataset(validation) if validation else None,
            steps=steps,
            batch_size=batch_size,
            accumulate=accumulate,
            seed=seed,
            validation_batch=validation_batch,
        )
        self.train, self.tokenizer = train, tokenizer

    @property
    def mask(self) -> TokenMask | None:
        return self._dataset.mask

    @property
    def steps_per_epoch(self) -> float:
        return len(self.train) / self._batch_size

    def replace_mask(self, mask: TokenMask) -> None:
        """Join this mask from the next batch on (batches are made in the training process, none in advance)."""
        self._dataset.mask = mask
