"""Conjugate gradients on the tracked parameters of a model, on all processes; each step is kept.

What is kept is `refinement.safetensors`, rewritten after each step: a build that was interrupted goes on from there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ifguide.influence.conjugate_gradients import ConjugateGradients, Solution, best_factor, conjugate_gradients, dot
from ifguide.influence.curvature import Curvature
from ifguide.influence.direction import precondition_direction
from ifguide.influence.gauss_newton import Batches, Product, checked_product
from ifguide.influence.scorers import Direction
from ifguide.workspace import write_atomically

STATE_FILE = "refinement.safetensors"

# N tracked parameters, in one vector


@dataclass(frozen=True)
class Layout:
    """How named tensors lie in one vector.

    Args:
        shapes: name → shape, in the order of the vector.
    """

    shapes: Mapping[str, torch.Size]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Layout":
        return cls({name: tensors[name].shape for name in sorted(tensors)})

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([tensors[name].flatten() for name in self.shapes])

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}


def layer_by_layer(product: Product) -> Product:
    """Products with the diagonal blocks of G alone: each layer's part by itself."""

    def diagonal(direction: Direction, batches: Batches) -> dict[str, Tensor]:
        layers: dict[str, dict[str, Tensor]] = {}
        for name, value in direction.items():
            layers.setdefault(name.rpartition(".")[0], {})[name] = value
        return {name: value for part in layers.values() for name, value in product(part, batches).items()}

    return diagonal


class RefiningModule(pl.LightningModule):
    """Refines a direction; one step of `Trainer.predict` is one step of conjugate gradients.

    Args:
        model: the proxy, in evaluation mode.
        settings: how.
        curvature, factors: start and preconditioner; layer → factors.
        gradient, start: g and v over the tracked parameters.
        blocks: [blocks, T] token ids that G is a mean over.
        batch_size: blocks at a time.
        folder: where each step is kept, on a file system that all processes share.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: ConjugateGradients,
        curvature: Curvature,
        factors: Mapping[str, Mapping[str, Tensor]],
        *,
        gradient: Direction,
        start: Direction,
        blocks: NDArray[Any],
        batch_size: int,
        folder: Path,
    ) -> None:
        super().__init__()
        self.model, self._settings = model, settings
        self._curvature, self._factors = curvature.resolved(factors), factors
        self._layout, self._gradient, self._start = Layout.of(gradient), gradient, start
        self._blocks, self._batch_size, self._folder = torch.from_numpy(blocks), batch_size, folder
        self._product: Product | None = None
        self._damping = torch.zeros(())  # δ of each parameter, [N]
        self._steps: Iterator[Solution] = iter(())
        self.solution: Solution | None = None
        self.facts: dict[str, Any] = {}

    def predict_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(self._settings.steps + 1), batch_size=None)  # type: ignore[arg-type]

    def on_predict_start(self) -> None:
        model, join = self.model.eval(), self._layout.join
        placed = {name: value.to(model.get_parameter(name)) for name, value in self._gradient.items()}
        self._product = checked_product(model, self._settings.form, placed, self._blocks[:1].to(self.device))
        if not self._settings.between_layers:
            self._product = layer_by_layer(self._product)
        layers = {name: self._factors.get(name.rpartition(".")[0], {}) for name in placed}
        self._damping = join({
            name: torch.full_like(value, self._curvature.delta(layers[name])) for name, value in placed.items()
        })  # fmt: skip
        gradient, image = join(placed), None
        kept = load_state(self._folder, gradient)
        if kept is not None:
            self.solution, self.facts = kept
            start: Tensor | Solution = self.solution
        else:
            vector = join({name: value.to(placed[name]) for name, value in self._start.items()})
            image = self._multiply(vector)
            self.facts = {"curvature_ratio": dot(vector, image) / dot(vector, gradient)}  # vᵀ(G + δI)v / vᵀg
            factor = {"curvature": 1.0, "zero": 0.0}.get(self._settings.start)
            if factor is None:
                factor = self.facts["scale"] = best_factor(image, gradient, vector)
            start, image = factor * vector, factor * image
        self._steps = conjugate_gradients(
            self._multiply, gradient, start, self._precondition,
            steps=self._settings.steps, tolerance=self._settings.tolerance, image=image,
        )  # fmt: skip

    def predict_step(self, step: int) -> int:
        found = next(self._steps, None)
        if found is not None:
            self.solution = found
            if self.trainer.is_global_zero:
                save_state(self._folder, found, self.facts)
        return step

    def direction(self) -> dict[str, Tensor]:
        """v."""
        assert self.solution is not None
        return self._layout.split(self.solution.solution)

    def _multiply(self, vector_N: Tensor) -> Tensor:
        """(G + δI) v, with the sums over the blocks of all processes."""
        assert self._product is not None
        mine = self._blocks[self.global_rank :: self.trainer.world_size].split(self._batch_size)
        total_N = self._layout.join(self._product(self._layout.split(vector_N), mine))
        total_N = self.trainer.strategy.reduce(total_N, reduce_op="sum")
        product_N: Tensor = total_N / len(self._blocks) + self._damping * vector_N
        return product_N

    def _precondition(self, vector_N: Tensor) -> Tensor:
        split = self._layout.split(vector_N)
        return self._layout.join(precondition_direction(self.model, split, self._factors, self._curvature))


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
