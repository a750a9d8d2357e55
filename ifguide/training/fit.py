"""One training run: blocks, mask, model, objective → trained weights."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.corpus.blocks import Split
from ifguide.corpus.masks import TokenMask
from ifguide.training.data import BlockDataModule, ExampleDataModule, Examples
from ifguide.training.module import VALIDATION_LOSS, CausalLanguageModel, DivergedError, OptimizedModule
from ifguide.training.optimization import AdamWCosine


@dataclass(frozen=True)
class Hardware:
    """Where and how a run is computed; apart from `precision`, nothing here changes what is computed.

    Args:
        accelerator: `cpu`, `gpu` or `auto`.
        devices: processes per node.
        num_nodes: nodes.
        strategy: strategy of Lightning, as in `auto`, `ddp`.
        precision: precision of Lightning; `bf16-mixed` keeps float32 master weights.
        micro_batch_size: blocks per forward pass and device; gradients of several are accumulated.
        compile: run the model through `torch.compile`.
        checkpoint_every: optimiser steps between resume checkpoints.
        validate_every: optimiser steps between validations; None: only at the end.
        log_every: optimiser steps between log entries.
        progress: show progress bars.
    """

    accelerator: str = "cpu"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    micro_batch_size: int = 16
    compile: bool = False
    checkpoint_every: int = 500
    validate_every: int | None = None
    log_every: int = 10
    progress: bool = True

    def __post_init__(self) -> None:
        if self.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise ValueError(f"trainer.accelerator={self.accelerator}: torch sees no GPU here; use trainer=cpu")
        for name in ("devices", "num_nodes", "micro_batch_size", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: must be at least 1")
        if self.validate_every is not None and self.validate_every < 1:
            raise ValueError(f"trainer.validate_every={self.validate_every}: must be at least 1, or null for the end")

    @property
    def device(self) -> torch.device:
        """The device for work outside a trainer (curvature, scoring, generation)."""
        wants_gpu = self.accelerator in ("gpu", "cuda") or (self.accelerator == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if wants_gpu else "cpu")

    def inference_trainer(self) -> pl.Trainer:
        """A trainer for work without gradients of its own on all devices, in the model's own precision."""
        return pl.Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.num_nodes,
            strategy=self.strategy,
            inference_mode=False,  # it would turn forward-mode differentiation off
            use_distributed_sampler=False,
            enable_progress_bar=self.progress,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
        )

    def accumulate(self, batch_size: int) -> int:
        """Micro-batches per step and process.

        Raises:
            ValueError: the batch does not divide evenly among processes and micro-batches.
        """
        share, rest = divmod(batch_size, self.devices * self.num_nodes)
        micro = min(self.micro_batch_size, share)
        if rest or share == 0 or share % micro:
            raise ValueError(
                f"optim.batch_size={batch_size} does not divide into {self.devices * self.num_nodes} processes × "
                f"micro-batches of {self.micro_batch_size} blocks; change trainer.micro_batch_size or trainer.devices"
            )
        return share // micro


@dataclass(frozen=True)
class Stopping:
    """When to stop early.

    Args:
        every: optimiser steps between validations.
        patience: validations in a row without a better loss after which training stops.
        start: validation loss of the weights that training starts from, which are kept where nothing is better.
    """

    every: int
    patience: int
    start: float


def train(
    model: PreTrainedModel,
    objective: nn.Module,
    optimization: AdamWCosine,
    hardware: Hardware,
    *,
    blocks: Split,
    mask: TokenMask | None,
    validation: Split | None,
    seed: int,
    directory: Path,
    logger: Logger | None = None,
    callbacks: Sequence[pl.Callback] = (),
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> dict[str, Any]:
    """Train a model in place, continuing an interrupted run of the same directory exactly.

    Args:
        model: trained in place; in every process of a distributed run.
        objective, optimization, hardware: see there.
        blocks, mask, validation: see `BlockDataModule`.
        seed: of the data order and dropout.
        directory: keeps `checkpoints/` while training; the caller saves the model and removes them.
        logger, callbacks: of Lightning.
        tokenizer: of the corpus, for callbacks.

    Returns:
        Facts: steps, tokens, last training and validation loss.

    Raises:
        DivergedError: the loss is not finite; the last good checkpoint is kept and named.
        ValueError: batch and devices do not fit, see `Hardware.accumulate`.
    """
    steps = optimization.steps(len(blocks))
    if steps == 0:
        return {"steps": 0, "tokens": 0}
    data = BlockDataModule(
        train=blocks,
        mask=mask,
        validation=validation,
        steps=steps,
        batch_size=optimization.batch_size,
        accumulate=hardware.accumulate(optimization.batch_size),
        seed=seed,
        validation_batch=hardware.micro_batch_size,
        tokenizer=tokenizer,
    )
    model.train()  # a loaded model comes in evaluation mode
    network: Any = torch.compile(model) if hardware.compile else model
    module = CausalLanguageModel(network, objective, optimization, steps=steps, seed=seed)
    facts = fit(module, data, hardware, steps=steps, directory=directory, logger=logger, callbacks=callbacks)
    return {**facts, "tokens": steps * optimization.batch_size * blocks.block_length}


def train_on_examples(
    build: Callable[[int], OptimizedModule],
    optimization: AdamWCosine,
    hardware: Hardware,
    *,
    examples: Examples,
    validation: Examples | None,
    seed: int,
    directory: Path,
    logger: Logger | None = None,
    callbacks: Sequence[pl.Callback] = (),
    stopping: Stopping | None = None,
) -> dict[str, Any]:
    """Train on anything but blocks; the arguments are those of `train`.

    Args:
        build: optimiser steps → the module.
        examples, validation: see `Examples`; `optimization` counts them where it speaks of blocks.
        stopping: when to stop early; then the best weights are kept, not the last.
    """
    steps = optimization.steps(len(examples))
    if steps == 0:
        return {"steps": 0}
    data = ExampleDataModule(
        examples=examples,
        validation=validation,
        steps=steps,
        batch_size=optimization.batch_size,
        accumulate=hardware.accumulate(optimization.batch_size),
        seed=seed,
        validation_batch=hardware.micro_batch_size,
    )
    return fit(
        build(steps),
        data,
        hardware,
        steps=steps,
        directory=directory,
        logger=logger,
        callbacks=callbacks,
        stopping=stopping,
    )


def fit(
    module: OptimizedModule,
    data: ExampleDataModule,
    hardware: Hardware,
    *,
    steps: int,
    directory: Path,
    logger: Logger | None,
    callbacks: Sequence[pl.Callback],
    stopping: Stopping | None = None,
) -> dict[str, Any]:
    """Run a module through its data: what `train` and `train_on_examples` share."""
    checkpoints, accumulate = directory / "checkpoints", data.accumulate
    callbacks = [
        ModelCheckpoint(
            dirpath=checkpoints, filename="{step}", every_n_train_steps=hardware.checkpoint_every, save_top_k=1,
            save_on_train_epoch_end=False,
        ),
        *callbacks,
    ]  # fmt: skip
    best = None
    if stopping is not None:
        best = ModelCheckpoint(
            dirpath=checkpoints / "best", filename="best", monitor=VALIDATION_LOSS, save_weights_only=True,
            enable_version_counter=False,
        )  # fmt: skip
        early = EarlyStopping(monitor=VALIDATION_LOSS, patience=stopping.patience)
        early.best_score = torch.tensor(stopping.start)
        callbacks += [best, early]
        start = {name: value.cpu().clone() for name, value in module.state_dict().items()}
    validate_every = stopping.every if stopping is not None else hardware.validate_every
    trainer = pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=hardware.strategy,
        precision=hardware.precision,  # type: ignore[arg-type]
        max_steps=steps,
        max_epochs=1,  # the batch order runs through all epochs of the corpus in one of the trainer's
        accumulate_grad_batches=accumulate,
        gradient_clip_val=module.clip,
        use_distributed_sampler=False,
        val_check_interval=min(validate_every, steps) * accumulate if validate_every else 1.0,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, min(hardware.log_every, steps)),
        enable_progress_bar=hardware.progress,
        enable_model_summary=False,
        logger=logger or False,
        callbacks=callbacks,
        default_root_dir=directory,
    )
    resume = newest_checkpoint(checkpoints)
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except DivergedError as error:
        kept = newest_checkpoint(checkpoints)
        raise DivergedError(
            f"{error}. Use a smaller optim.learning_rate, optim.clip or objective.penalty. "
            f"Last good checkpoint: {kept or 'none yet (trainer.checkpoint_every)'}"
        ) from None
    if trainer.interrupted:
        raise KeyboardInterrupt
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "loss" in name}
    if best is not None and stopping is not None:
        trainer.validate(module, data, verbose=False)  # the last step may lie between two validations
        last = float(trainer.callback_metrics[VALIDATION_LOSS])
        seen = inf if best.best_model_score is None else float(best.best_model_score)
        metrics[VALIDATION_LOSS] = min(stopping.start, seen, last)
        if metrics[VALIDATION_LOSS] == stopping.start:
            rank_zero_warn(
                f"no validation loss was below {stopping.start:.4f}, that of the weights before training "
                f"({min(seen, last):.4f} was the best): these are kept, so training changed nothing"
            )
            module.load_state_dict(start)
        elif not last < seen:
            best_weights = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
            module.load_state_dict(best_weights["state_dict"])
    if bad := [name for name, value in module.model.named_parameters() if not torch.isfinite(value).all()]:
        raise DivergedError(f"training ended with weights that are not finite, the first is {bad[0]}")
    return {"steps": trainer.global_step, **metrics}


def newest_checkpoint(folder: Path) -> Path | None:
    found = list(folder.glob("*.ckpt"))
    return max(found, key=lambda path: path.stat().st_mtime) if found else None


def remove_checkpoints(directory: Path) -> None:
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
