"""The LightningModule: a model, an objective and an optimisation."""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ifguide.objectives.language_modeling import cross_entropy
from ifguide.training.optimization import AdamWCosine


class DivergedError(ValueError):
    """The loss or the weights are no longer finite."""


class CausalLanguageModel(pl.LightningModule):
    """Trains a causal language model on blocks.

    Args:
        model: the model; a compiled one works alike.
        objective: (logits, input_ids, mask or None) → scalar loss.
        optimization: optimiser and schedule.
        steps: optimiser steps in total, for the schedule.
        seed: of dropout, together with step and rank: no generator state has to be saved for an exact resume.
    """

    def __init__(
        self, model: nn.Module, objective: nn.Module, optimization: AdamWCosine, *, steps: int, seed: int
    ) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self._optimization, self._steps, self._seed = optimization, steps, seed

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits

    def training_step(self, batch: Mapping[str, Tensor], batch_index: int) -> Tensor:
        torch.manual_seed((self._seed * 1_000_003 + batch_index) * 1009 + self.global_rank)
        loss = self.objective(self(batch["input_ids"]), batch["input_ids"], batch.get("mask"))
        if not torch.isfinite(loss):
            raise DivergedError(f"the training loss is {loss.item()} at step {self.global_step}")
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_index: int) -> None:
        loss = cross_entropy(self(batch["input_ids"]), batch["input_ids"])
        self.log("validation/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch["input_ids"]))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, schedule = self._optimization.configure(self.model.named_parameters(), self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        if bad := [name for name, value in self.model.named_parameters() if not torch.isfinite(value).all()]:
            raise DivergedError(f"{len(bad)} weights are not finite at step {self.global_step}, the first is {bad[0]}")
