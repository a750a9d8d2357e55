"""One training run: blocks, mask, model, objective → trained weights."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.corpus.blocks import Split
from ifguide.corpus.masks import TokenMask
from ifguide.hardware import keeping_freed_memory
from ifguide.training.checkpoints import AfterSteps, SaveWhenAsked, best_checkpoint, newest_checkpoint
from ifguide.training.context import TrainingContext
from ifguide.training.data import BlockDataModule, ExampleDataModule, Examples
from ifguide.training.module import VALIDATION_LOSS, CausalLanguageModel, DivergedError, OptimizedModule, logged_losses
from ifguide.training.optimization import Optimization
from ifguide.training.trainer import interval


@dataclass(frozen=True)
class Stopping:
    """When to stop early.

    Args:
        every: optimiser steps between validations, or below 1 a share of all steps.
        patience: validations in a row without a better loss after which training stops.
        start: validation loss of the weights that training starts from, which are kept where nothing is better.
    """

    every: float
    patience: int
    start: float


def train(
    model: PreTrainedModel,
    objective: nn.Module,
    optimization: Optimization,
    context: TrainingContext,
    *,
    blocks: Split,
    mask: TokenMask | None,
    validation: Split | None,
    seed: int,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> dict[str, Any]:
    """Train a model in place, continuing an interrupted run of the same directory exactly.

    Args:
        model: trained in place; in every process of a distributed run.
        objective, optimization, context: see there; the caller saves the model (`save_trained`).
        blocks, mask, validation: see `BlockDataModule`.
        seed: of the data order and dropout.
        tokenizer: of the corpus, for callbacks, and for its end-of-text token where the objective reads it.

    Returns:
        Facts: steps, tokens, last training and validation loss.

    Raises:
        DivergedError: the loss is not finite; the last good checkpoint is kept and named.
        ValueError: batch and devices do not fit, see `TrainerSettings.accumulate`.
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
        accumulate=context.trainer.accumulate(optimization.batch_size),
        seed=seed,
        validation_batch=context.trainer.micro_batch_size,
        tokenizer=tokenizer,
    )
    model.train()  # a loaded model comes in evaluation mode
    end_of_text = None if tokenizer is None else int(tokenizer.eos_token_id)
    module = CausalLanguageModel(
        model, objective, optimization, steps=steps, seed=seed, end_of_text=end_of_text,
        fused=context.trainer.fused_loss, compiled=context.trainer.compile,
    )  # fmt: skip
    facts = fit(module, data, context, steps=steps)
    return {**facts, "tokens": steps * optimization.batch_size * blocks.block_length}


def train_on_examples(
    build: Callable[[int], OptimizedModule],
    optimization: Optimization,
    context: TrainingContext,
    *,
    examples: Examples,
    validation: Examples | None,
    seed: int,
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
        accumulate=context.trainer.accumulate(optimization.batch_size),
        seed=seed,
        validation_batch=context.trainer.micro_batch_size,
    )
    return fit(build(steps), data, context, steps=steps, stopping=stopping)


def fit(
    module: OptimizedModule,
    data: ExampleDataModule,
    context: TrainingContext,
    *,
    steps: int,
    stopping: Stopping | None = None,
) -> dict[str, Any]:
    """Run a module through its data: what `train` and `train_on_examples` share."""
    settings, checkpoints = context.trainer, context.checkpoints
    model = getattr(module.model, "body", module.model)  # of a reward model
    if settings.gradient_checkpointing and isinstance(model, PreTrainedModel):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    latest = AfterSteps(
        dirpath=checkpoints, filename="{step}", every_n_train_steps=settings.checkpoint_every, save_top_k=1,
        save_on_train_epoch_end=False,
    )  # fmt: skip
    callbacks: list[pl.Callback] = [latest, *context.callbacks, SaveWhenAsked(checkpoints)]
    best, every = None, settings.validate_every
    if stopping is not None:
        best, every = best_checkpoint(checkpoints, VALIDATION_LOSS), stopping.every
        early = EarlyStopping(monitor=VALIDATION_LOSS, patience=stopping.patience)
        early.best_score = torch.tensor(stopping.start)
        callbacks += [best, early]
        start = {name: value.cpu().clone() for name, value in module.state_dict().items()}
    trainer = settings.make_trainer(
        precision=settings.precision,
        shares=module.shares,
        max_steps=steps,
        max_epochs=1,  # the batch order runs through all epochs of the corpus in one of the trainer's
        accumulate_grad_batches=data.accumulate,
        gradient_clip_val=module.clip,
        val_check_interval=interval(every, steps) * data.accumulate if every else 1.0,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, min(settings.log_every, steps)),
        logger=context.logger or False,
        callbacks=callbacks,
        default_root_dir=context.directory,
    )
    resume = newest_checkpoint(checkpoints)
    try:
        with keeping_freed_memory():
            trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except DivergedError as error:
        kept = newest_checkpoint(checkpoints)
        raise DivergedError(
            f"{error}. Use a smaller learning_rate or clip, or a smaller penalty or weight of the objective. "
            f"Last good checkpoint: {kept or 'none yet (checkpoint_every)'}"
        ) from None
    if trainer.interrupted:
        raise KeyboardInterrupt
    metrics = {**module.losses, **logged_losses(trainer)}
    if module.lacks_validation():
        trainer.validate(module, data, verbose=False)
        metrics |= logged_losses(trainer)
    module.put_together()
    if best is not None and stopping is not None:
        seen = inf if best.best_model_score is None else float(best.best_model_score)
        last = metrics[VALIDATION_LOSS]
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
