"""What every training needs beside what it learns, and what it leaves."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from transformers import PreTrainedTokenizerFast

from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import global_rank

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class TrainingContext:
    """Where a training is computed and written, and who watches; none of it decides what is learned.

    Args:
        trainer: devices, precision and micro-batches.
        directory: keeps the checkpoints while training, so that an interrupted run of the same directory goes on; the
            trained model goes there.
        logger, callbacks: of Lightning.
    """

    trainer: TrainerSettings
    directory: Path
    logger: Logger | None = None
    callbacks: Sequence[pl.Callback] = ()

    @property
    def checkpoints(self) -> Path:
        return self.directory / CHECKPOINTS


@dataclass(frozen=True)
class TrainingSetup:
    """What a training is computed with, before it is known in which folder.

    Args:
        trainer: devices, precision and micro-batches.
        make_logger: called when training begins.
        callbacks: of Lightning.
    """

    trainer: TrainerSettings
    make_logger: Callable[[], Logger | None] = lambda: None
    callbacks: Sequence[pl.Callback] = ()

    def micro_batches(self, batch_size: int) -> dict[str, Any]:
        """How batches are split, as a setting of what depends on it; nothing where they are not."""
        split = self.trainer.split(batch_size)
        return {"micro_batches": split} if max(split) > 1 else {}

    def within(self, directory: Path, more_callbacks: Iterable[pl.Callback] = ()) -> TrainingContext:
        return TrainingContext(self.trainer, directory, self.make_logger(), (*self.callbacks, *more_callbacks))


class Model(Protocol):
    """Anything that writes itself as a Hugging Face folder does."""

    def save_pretrained(self, directory: Path, /) -> Any: ...


def save_trained(model: Model, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a trained model's folder and remove its checkpoints; called in every process, done by the first."""
    if global_rank() == 0:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        remove_checkpoints(directory)


def remove_checkpoints(directory: Path) -> None:
    shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
