"""Callbacks of an ordinary training run."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm.auto import tqdm


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


class Progress(ProgressBar):
    """Bars of the style of all others: gone at the end, and none where no terminal shows them."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[Any] = tqdm(disable=True)
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._begin("Training", trainer.max_steps, initial=trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        shown = {name.rpartition("/")[2]: f"{value:.3f}" for name, value in trainer.progress_bar_metrics.items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._bar.close()

    def on_predict_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._begin("Scoring", sum(map(int, trainer.num_predict_batches)))

    def on_predict_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        self._bar.update()

    def on_predict_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._bar.close()

    def _begin(self, name: str, total: int, *, initial: int = 0) -> None:
        disable = None if self._enabled else True  # None: where there is no terminal
        self._bar = tqdm(desc=name, total=total, initial=initial, leave=False, disable=disable)
