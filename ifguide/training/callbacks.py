"""Callbacks of an ordinary training run."""

import time
from typing import Any

import pytorch_lightning as pl


class Throughput(pl.Callback):
    """Logs `tokens_per_second` over all processes since the last log, validation time left out."""

    def __init__(self) -> None:
        self._tokens, self._seconds, self._start = 0, 0.0, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._seconds += time.perf_counter() - self._start
        self._tokens += batch["input_ids"].numel() * trainer.world_size
        every = trainer.log_every_n_steps * trainer.accumulate_grad_batches  # type: ignore[attr-defined]
        if (index + 1) % every == 0:
            module.log("tokens_per_second", self._tokens / self._seconds, prog_bar=True, rank_zero_only=True)
            self._tokens, self._seconds = 0, 0.0
