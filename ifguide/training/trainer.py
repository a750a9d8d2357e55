"""Where and how a run is computed."""

import inspect
import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, TypeVar, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning.strategies import Strategy
from torch.utils.data import DataLoader

from ifguide.checks import check_whole_number
from ifguide.hardware import AUTO, computes_bfloat16
from ifguide.processes import Processes
from ifguide.training.callbacks import Progress
from ifguide.training.checkpoints import WholeCheckpointIO
from ifguide.training.strategies import check_strategy, of_lightning
from ifguide.workspace import local_rank

OURS = {  # arguments of Lightning's trainer that are decided elsewhere → where
    **dict.fromkeys(("max_steps", "max_epochs", "min_steps", "min_epochs", "max_time"), "epochs of the optimisation"),
    **dict.fromkeys(
        (
            "fast_dev_run",
            "overfit_batches",
            "limit_train_batches",
            "limit_val_batches",
            "limit_test_batches",
            "limit_predict_batches",
            "reload_dataloaders_every_n_epochs",
        ),
        "epochs of the optimisation and the size of the data",
    ),
    **dict.fromkeys(("gradient_clip_val", "gradient_clip_algorithm"), "clip of the optimisation"),
    "accumulate_grad_batches": "batch_size of the optimisation and micro_batch_size",
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps"), "validate_every"),
    "log_every_n_steps": "log_every",
    "enable_progress_bar": "progress",
    "enable_checkpointing": "checkpoint_every",
    "callbacks": "the group callbacks",
    "logger": "the group logger",
    **dict.fromkeys(
        ("default_root_dir", "use_distributed_sampler", "inference_mode", "barebones"), "the training itself"
    ),
}

Result = TypeVar("Result")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


class TrainerSettings:
    """Where and how a run is computed; apart from `precision`, nothing here changes what is computed, unless a model
    has dropout, which differs with the micro-batches that a batch is split into.

    Args:
        accelerator: `cpu`, `gpu` or `auto`.
        devices: processes per node.
        num_nodes: nodes.
        strategy: `auto`, `ddp`, `fsdp` (`ifguide.training.strategies`), any other of Lightning by name, or an object.
        precision: of Lightning, one of `PRECISIONS`; `bf16-mixed` and `16-mixed` keep float32 master weights. `auto`:
            `bf16-mixed` where hardware computes bfloat16, else `32-true`; the attribute says which.
        micro_batch_size: blocks per forward pass and device; gradients of several are accumulated.
        compile: run the model through `torch.compile`.
        fused_loss: make the logits of a training step in chunks (`ifguide.objectives.linear_head`): less memory, for a
            product more; None: where a micro-batch has more than 64 million of them. Not of a compiled model. It is a
            loss of each token with sums in float32 on every device; kernels of other packages are not used.
        gradient_checkpointing: keep no activations of decoder blocks and compute them again: less memory, for a forward
            pass more.
        checkpoint_every: optimiser steps between resume checkpoints.
        validate_every: optimiser steps between validations, or below 1 a share of all steps; None: only at the end.
        log_every: optimiser steps between log entries.
        progress: show progress bars.
        lightning: any other argument of `pytorch_lightning.Trainer`, as in `profiler`, `deterministic`, `plugins`.

    Raises:
        ValueError: a setting out of range, an argument that Lightning's trainer does not have, or one that is decided
            elsewhere.
    """

    def __init__(
        self,
        *,
        accelerator: str = "cpu",
        devices: int = 1,
        num_nodes: int = 1,
        strategy: str | Strategy = "auto",
        precision: str = "32-true",
        micro_batch_size: int = 16,
        compile: bool = False,
        fused_loss: bool | None = None,
        gradient_checkpointing: bool = False,
        checkpoint_every: int = 500,
        validate_every: float | None = None,
        log_every: int = 10,
        progress: bool = True,
        **lightning: Any,
    ) -> None:
        self.accelerator, self.devices, self.num_nodes = accelerator, devices, num_nodes
        if precision == AUTO:
            precision = "bf16-mixed" if computes_bfloat16(self.device) else "32-true"
        self.strategy, self.precision, self.micro_batch_size, self.compile = (
            strategy,
            precision,
            micro_batch_size,
            compile,
        )
        self.fused_loss, self.gradient_checkpointing = fused_loss, gradient_checkpointing
        self.checkpoint_every, self.validate_every, self.log_every = checkpoint_every, validate_every, log_every
        self.progress, self.lightning = progress, lightning
        check_strategy(strategy, precision=precision, compile=compile, fused_loss=fused_loss)
        if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise ValueError(f"accelerator={accelerator}: torch sees no GPU here; use trainer=cpu")
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision}; known: auto, {', '.join(PRECISIONS)}")
        for name in ("devices", "num_nodes", "micro_batch_size", "checkpoint_every", "log_every"):
            check_whole_number(name, getattr(self, name), least=1)
        check_every("validate_every", validate_every)
        if str(precision).startswith("16") and self.device.type == "cpu":  # Lightning would take bfloat16 and warn
            raise ValueError(f"precision={precision}: a CPU computes in 32-true or bf16-mixed; float16 needs a GPU")
        known = further_arguments()
        for name, value in lightning.items():
            if name in OURS:
                raise ValueError(f"{name}={value}: decided by {OURS[name]}")
            if name not in known:
                raise ValueError(f"{name}={value}: no argument of Lightning's trainer; known: {', '.join(known)}")

    @property
    def device(self) -> torch.device:
        """The device for work outside a trainer; each of several processes of a node has one of its own."""
        wants_gpu = self.accelerator in ("gpu", "cuda") or (self.accelerator == "auto" and torch.cuda.is_available())
        if not wants_gpu:
            return torch.device("cpu")
        return torch.device("cuda", local_rank()) if self.devices > 1 else torch.device("cuda")

    @property
    def processes(self) -> int:
        return self.devices * self.num_nodes

    def make_trainer(
        self, callbacks: Sequence[pl.Callback] = (), *, shares: bool = False, bars: bool = True, **options: Any
    ) -> pl.Trainer:
        """A trainer of Lightning.

        Args:
            callbacks: beside those that each has.
            shares: whether weights may be shared out over the processes, where the strategy does that.
            bars: show progress bars, where the settings do.
            options: what a caller decides.
        """
        if "profiler" in self.lightning:  # its report is a log entry, of which a run shows warnings only
            logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
        # objects, as a strategy, belong to one trainer only
        ours = {"enable_model_summary": False, **self.lightning}
        ours["strategy"] = of_lightning(self.strategy, self.processes, shares=shares)
        plugins = self.lightning.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, Sequence) and not isinstance(plugins, str) else [plugins]
        if not any(isinstance(one, CheckpointIO) for one in plugins):
            ours["plugins"] = [*plugins, WholeCheckpointIO()]
        trainer = pl.Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.num_nodes,
            use_distributed_sampler=False,
            enable_progress_bar=self.progress and bars,
            callbacks=[*callbacks, *([Progress()] if self.progress and bars else [])],
            **deepcopy(ours),
            **options,
        )
        # Lightning's answer to SIGTERM is to wait for the other processes, whatever they are doing; ours ends the run
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        return trainer

    def inference_trainer(self, *, bars: bool = True) -> pl.Trainer:
        """A trainer for work without gradients of its own on all devices, in the model's own precision."""
        # Lightning's inference mode would turn forward-mode differentiation off
        return self.make_trainer(bars=bars, inference_mode=False, enable_checkpointing=False, logger=False)

    def on_all_devices(self, work: Callable[[Processes], Result]) -> Result:
        """What some work comes to that all processes do together, each with its share.

        Args:
            work: called in each process; it computes on the device of its argument.
        """
        if self.processes == 1:
            return work(Processes(device=self.device))
        shared = _SharedWork(work)
        trainer = self.inference_trainer(bars=False)  # the work shows its own
        trainer.predict(shared, return_predictions=False)
        if trainer.interrupted:
            raise KeyboardInterrupt
        result: Result = shared.result
        return result

    def split(self, batch_size: int) -> list[int]:
        """Micro-batches per step and process, and processes: how a batch is split, if it divides evenly."""
        return [max(1, -(-batch_size // (self.processes * self.micro_batch_size))), self.processes]

    def accumulate(self, batch_size: int) -> int:
        """Micro-batches per step and process.

        Raises:
            ValueError: the batch does not divide evenly among processes and micro-batches.
        """
        share, rest = divmod(batch_size, self.processes)
        micro = min(self.micro_batch_size, share)
        if rest or share == 0 or share % micro:
            raise ValueError(
                f"batch_size={batch_size} does not divide into {self.processes} processes × micro-batches of "
                f"{self.micro_batch_size}; change it, trainer.micro_batch_size, trainer.devices or "
                "trainer.num_nodes"
            )
        return share // micro


class _SharedWork(pl.LightningModule):
    """A piece of work as the one step of a prediction; it leaves its result."""

    def __init__(self, work: Callable[[Processes], Any]) -> None:
        super().__init__()
        self._work, self.result = work, cast(Any, None)

    def predict_dataloader(self) -> DataLoader[int]:
        return DataLoader([0], batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, _: int) -> None:
        trainer = self.trainer
        with torch.enable_grad():
            self.result = self._work(Processes(trainer.global_rank, trainer.world_size, trainer.strategy.root_device))


def further_arguments() -> list[str]:
    """Arguments of Lightning's trainer that are passed through."""
    ours = {*OURS, *inspect.signature(TrainerSettings).parameters}
    return [name for name in inspect.signature(pl.Trainer).parameters if name not in ours]


def check_every(name: str, every: float | None) -> None:
    if every is not None and (every <= 0 or (every > 1 and every != int(every))):
        raise ValueError(f"{name}={every}: must be a number of steps, or a share of all steps below 1")


def interval(every: float, steps: int) -> int:
    """Steps between two of something that happens every so many steps, or every share of all steps."""
    return min(int(every), steps) if every >= 1 else max(1, round(every * steps))
