"""Conjugate gradients on the tracked parameters of a model, on all processes; each step is kept.

What is kept is `refinement.safetensors`, rewritten after each step: a build that was interrupted goes on from there.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ifguide.influence.conjugate_gradients import Solution
from ifguide.influence.damped_system import DampedSystem
from ifguide.influence.scorers import Direction
from ifguide.workspace import write_atomically

STATE_FILE = "refinement.safetensors"


class RefiningModule(pl.LightningModule):
    """Refines a direction; one step of `Trainer.predict` is one step of conjugate gradients.

    Args:
        model: the proxy, in evaluation mode.
        system: what is solved; called with `share` and `total` of the processes, once the model is on their devices.
        start: v of the curvature alone.
        steps: at most.
        folder: where each step is kept, on a file system that all processes share.
    """

    def __init__(
        self, model: PreTrainedModel, system: Callable[..., DampedSystem], *, start: Direction, steps: int, folder: Path
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self._make_system, self._start, self._most, self._folder = system, start, steps, folder
        self.system: DampedSystem | None = None
        self._steps: Iterator[Solution] = iter(())
        self.solution: Solution | None = None
        self.facts: dict[str, Any] = {}

    def predict_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(self._most + 1), batch_size=None)  # type: ignore[arg-type]

    def on_predict_start(self) -> None:
        reduce = self.trainer.strategy.reduce
        self.system = self._make_system(
            share=slice(self.global_rank, None, self.trainer.world_size),
            total=lambda vector_N: reduce(vector_N, reduce_op="sum"),
        )
        kept = load_state(self._folder, self.system.gradient_N)
        if kept is None:
            start, image, self.facts = self.system.start(self._start)
            self._steps = self.system.solve(start, image)
        else:
            self.solution, self.facts = kept
            self._steps = self.system.solve(self.solution)

    def predict_step(self, step: int) -> int:
        found = next(self._steps, None)
        if found is not None:
            self.solution = found
            if self.trainer.is_global_zero:
                save_state(self._folder, found, self.facts)
        return step

    def direction(self) -> dict[str, Tensor]:
        """v."""
        assert self.system is not None and self.solution is not None
        return self.system.layout.split(self.solution.solution)


def save_state(folder: Path, state: Solution, facts: Mapping[str, Any]) -> None:
    """Keep a step, and what is known of the start, in place of the one before; a reader sees either."""
    tensors = {name: getattr(state, name).contiguous().cpu() for name in ("solution", "residual", "search")}
    metadata = {"norms": json.dumps(state.norms), "facts": json.dumps(facts)}
    write_atomically(folder / STATE_FILE, save(tensors, metadata=metadata))


def load_state(folder: Path, like: Tensor) -> tuple[Solution, dict[str, Any]] | None:
    """The last step that was kept, on the device of `like`, and its facts; None where there is none."""
    if not (folder / STATE_FILE).is_file():
        return None
    with safe_open(folder / STATE_FILE, "pt") as file:
        tensors = {name: file.get_tensor(name).to(like) for name in file.keys()}  # noqa: SIM118 (no mapping)
        metadata = file.metadata()
        return Solution(**tensors, norms=tuple(json.loads(metadata["norms"]))), json.loads(metadata["facts"])


def refine(trainer: pl.Trainer, module: RefiningModule) -> dict[str, Any]:
    """Run conjugate gradients on all processes of a trainer.

    Returns:
        Facts for the manifest: `residuals`, ‖g − (G + δI)v‖ / ‖g‖ before the first step and after each; `steps`; and
        for a start that is not zero `curvature_ratio`, vᵀ(G + δI)v ÷ vᵀg of the curvature's direction, 1 where that
        solves the system.
    """
    trainer.predict(module, return_predictions=False)
    if trainer.interrupted:
        raise KeyboardInterrupt
    assert module.solution is not None
    return {"steps": module.solution.steps, "residuals": list(module.solution.norms), **module.facts}
