"""The LightningModules: a model, what it learns from, and an optimisation."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ifguide.objectives.language_modeling import cross_entropy
from ifguide.objectives.linear_head import LinearLogits
from ifguide.training.data import FILLING
from ifguide.training.optimization import Optimization
from ifguide.training.predictions import predictions
from ifguide.training.strategies import is_deepspeed, is_finite, put_together, shared_out

VALIDATION_LOSS = "validation/loss"


class DivergedError(ValueError):
    """The loss or the weights are no longer finite."""


def logged_losses(trainer: pl.Trainer) -> dict[str, float]:
    """The last ones of training and of validation, as far as this process had some."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if "loss" in name}


class OptimizedModule(pl.LightningModule):
    """What every training shares: seeded steps, the optimisation, and the refusal of what is not finite.

    Args:
        model: the model that is trained.
        optimization: optimiser and schedule.
        steps: optimiser steps in total, for the schedule.
        seed: of dropout, together with step and rank: no generator state has to be saved for an exact resume.
        fused: as in `predictions`, of a language model; one that is shared out is never read by parts.
        compiled: call it through `torch.compile`; its weights keep their names.

    Attributes:
        shares: whether the model's weights may be shared out over processes, because `loss` only calls the model.
        losses: the last ones of the checkpoint that it goes on from.
        validated: optimiser steps before the last validation.
    """

    shares: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        optimization: Optimization,
        *,
        steps: int,
        seed: int,
        fused: bool | None = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self._optimization, self._steps, self._seed = optimization, steps, seed
        self._compiled: list[Any] = [torch.compile(model)] if compiled else []
        self._predict = predictions(self.network, fused=False if compiled else fused)
        self._whole: list[nn.Module] = []  # while a copy of it is shared out and trained
        self.losses: dict[str, float] = {}
        self.validated: int | None = None

    @property
    def network(self) -> Any:
        """The model, as it is called."""
        return self._compiled[0] if self._compiled else self.model

    @property
    def clip(self) -> float:
        return self._optimization.clip

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch, a scalar."""
        raise NotImplementedError

    def validation_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.loss(batch)

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not self._whole:
            self._whole.append(self.model)
            self.model = shared_out(self.model, self.trainer.strategy.device_mesh["data_parallel"])
            self._predict = predictions(self.model, fused=False)

    def put_together(self) -> None:
        """Take the whole model back where a copy of it was shared out, with the copy's weights."""
        for whole in self._whole:
            put_together(self.model, whole)
            self.model = whole
        self._whole.clear()

    def training_step(self, batch: Mapping[str, Tensor], batch_index: int) -> Tensor:
        # every other backend records its stack, where it has no device, and formats it at each call
        seed = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        seed((self._seed * 1_000_003 + batch_index) * 1009 + self.global_rank)
        loss = self.loss(batch)
        mean: Tensor = self.trainer.strategy.reduce(loss.detach().clone())  # all processes see that one's is not finite
        if not torch.isfinite(mean):
            raise DivergedError(f"the training loss is {mean.item()} at step {self.global_step}")
        self.log("train/loss", mean, prog_bar=True)
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_index: int) -> None:
        size = 0 if FILLING in batch else len(batch["input_ids"])
        loss = self.validation_loss(batch)
        # Lightning rounds the mean of the processes' sizes down to a whole number, so all are multiples of how many
        size *= self.trainer.world_size
        self.log(VALIDATION_LOSS, loss, prog_bar=True, sync_dist=True, batch_size=size)

    def on_validation_end(self) -> None:
        self.validated = self.trainer.global_step

    def lacks_validation(self) -> bool:
        """Whether the training ended, or went on, between two validations."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return data.validates and self.validated != self.trainer.global_step

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the global norm; Lightning's own refuses fused optimisers under mixed precision, bf16 included.

        Under float16 gradients are scaled, and a fused optimiser takes the scale off only later: then the limit is
        scaled, too.
        """
        if is_deepspeed(self.trainer.strategy):
            return  # clips by itself, by the trainer's gradient_clip_val
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        is_scaled = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
        scale = scaler.get_scale() if scaler is not None and is_scaled else 1.0
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.clip * scale)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, schedule = self._optimization.configure(self.model.named_parameters(), self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint["micro_batches"] != self._micro_batches():
            raise ValueError(
                f"this run was interrupted with (micro-batches, processes) = {tuple(checkpoint['micro_batches'])} and "
                f"would go on with {tuple(self._micro_batches())}: resume with the same "
                f"trainer.micro_batch_size and trainer.devices, or delete {self.trainer.default_root_dir}"
            )
        self.losses = checkpoint.get("losses", {})  # none, of an earlier version

    def _micro_batches(self) -> list[int]:
        return [self.trainer.accumulate_grad_batches, self.trainer.world_size]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        losses = {**self.losses, **logged_losses(self.trainer)}
        checkpoint |= {"micro_batches": self._micro_batches(), "losses": losses}
        if bad := [name for name, value in self.model.named_parameters() if not is_finite(value)]:
            raise DivergedError(f"{len(bad)} weights are not finite at step {self.global_step}, the first is {bad[0]}")


class CausalLanguageModel(OptimizedModule):
    """Trains a causal language model on blocks.

    Args:
        model: the model.
        objective: (logits, input_ids, mask or None) → scalar loss. Where it has a method `inputs`, the model reads
            inputs(input_ids, mask or None, end_of_text) instead of input_ids.
        optimization, steps, seed, fused, compiled: as in `OptimizedModule`.
        end_of_text: id of the token between documents, for such an objective.
    """

    shares = True

    def __init__(
        self,
        model: nn.Module,
        objective: nn.Module,
        optimization: Optimization,
        *,
        steps: int,
        seed: int,
        end_of_text: int | None = None,
        fused: bool | None = False,
        compiled: bool = False,
    ) -> None:
        super().__init__(model, optimization, steps=steps, seed=seed, fused=fused, compiled=compiled)
        self.objective, self._end_of_text = objective, end_of_text

    def forward(self, input_ids: Tensor) -> Tensor | LinearLogits:
        return self._predict(input_ids)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        input_ids, mask = batch["input_ids"], batch.get("mask")
        changes: Any = getattr(self.objective, "inputs", None)
        read = input_ids if changes is None else changes(input_ids, mask, self._end_of_text)
        loss: Tensor = self.objective(self(read), input_ids, mask)
        return loss

    def validation_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        return cross_entropy(self(batch["input_ids"]), batch["input_ids"])
