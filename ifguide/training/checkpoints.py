"""Checkpoints to resume from: a file that has its name is whole."""

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

log = logging.getLogger(__name__)
PART = ".part"


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


def best_checkpoint(folder: Path, monitor: str) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder / "best", filename="best", monitor=monitor, save_weights_only=True, enable_version_counter=False
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a folder that is whole; what is not (of another program's writing, a damaged disk) is
    said and passed over."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True):
        if path.is_dir() or zipfile.is_zipfile(path):  # sharded ones are folders
            return path
        log.warning("%s is damaged: training goes on from the checkpoint before it, or starts anew", path)
    return None
