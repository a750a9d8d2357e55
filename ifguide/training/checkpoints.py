"""Checkpoints to resume from: a file that has its name is whole."""

import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

log = logging.getLogger(__name__)
PART = ".part"
KEPT_BEFORE = 1  # checkpoints before the one that is resumed from, should that be damaged later


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to disk, and renames it.

    Lightning's own writes into the temporary folder and moves, which between two file systems is a copy that a kill or
    a full disk cuts in two.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        part = Path(f"{path}{PART}")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        os.replace(part, path)


def ends_step(trainer: pl.Trainer, index: int) -> bool:
    """Whether a micro-batch is the last one of an optimiser step."""
    return (index + 1) % trainer.accumulate_grad_batches == 0


class AfterSteps(ModelCheckpoint):
    """Saves at the end of an optimiser step alone. Lightning's own saves the step that a training was resumed from once
    more, amid the micro-batches of the next one, from where nothing goes on exactly."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if ends_step(trainer, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def best_checkpoint(folder: Path, monitor: str) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder / "best", filename="best", monitor=monitor, save_weights_only=True, enable_version_counter=False
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest step of a folder that is whole; what is not (of another program's writing, a damaged
    disk) is said and passed over. Clocks are not asked: they may have been set back in between."""
    for path in _by_step(folder):
        if path.is_dir() or _is_whole(path):  # sharded ones are folders
            return path
        log.warning("%s is damaged: training goes on from the checkpoint before it, or starts anew", path)
    return None


def _by_step(folder: Path) -> list[Path]:
    """Checkpoints of a folder, that of the latest step first."""
    return sorted(folder.glob("*.ckpt"), key=_step, reverse=True)


def _step(path: Path) -> tuple[int, float]:
    found = re.search(r"step=(\d+)", path.name)
    return int(found[1]) if found else -1, path.stat().st_mtime


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None  # reads it all, and compares its checksums
    except (zipfile.BadZipFile, EOFError):
        return False


class SaveWhenAsked(pl.Callback):
    """Where a training of one process is asked to end, saves a checkpoint at the end of its step, and ends it.

    Several processes end at once instead, each at another step, and go on from the checkpoint before.

    Args:
        folder: of the checkpoints.
    """

    training: ClassVar[bool] = False  # one that can be asked is going on in this process
    asked: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def ask(cls) -> bool:
        """Ask the training that is going on, if one is, to save and end; returns whether there is one."""
        cls.asked = cls.training
        return cls.training

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        SaveWhenAsked.training, SaveWhenAsked.asked = trainer.world_size == 1, False
        resumed = trainer.ckpt_path
        if resumed is not None and trainer.is_global_zero:  # those of times that it was asked before pile up
            older = [path for path in _by_step(self.folder) if _step(path) < _step(Path(resumed))]
            for path in older[KEPT_BEFORE:]:
                trainer.strategy.remove_checkpoint(path)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if SaveWhenAsked.asked and ends_step(trainer, index):
            self._save_and_end(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:  # an `OptimizedModule`
        SaveWhenAsked.training = False
        if SaveWhenAsked.asked:
            self._save_and_end(trainer)
        if module.lacks_validation():  # which `fit` does next, and cannot save
            self.save(trainer)

    def _save_and_end(self, trainer: pl.Trainer) -> NoReturn:
        self.save(trainer)
        raise KeyboardInterrupt

    def save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        SaveWhenAsked.training = False
