"""(G + δI) v = g over the tracked parameters of a model: G on some blocks, δ and the preconditioner of its factors."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.influence.conjugate_gradients import ConjugateGradients, Solution, best_factor, conjugate_gradients, dot
from ifguide.influence.curvature import Curvature
from ifguide.influence.direction import precondition_direction
from ifguide.influence.gauss_newton import Batches, Product, checked_product
from ifguide.influence.scorers import Direction

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


def check_refinable(curvature: Curvature) -> None:
    """Refuse a curvature whose δ is not known, or 0.

    Raises:
        ValueError: it is one of these.
    """
    if curvature.strategy == "identity" and curvature.relative:
        raise ValueError(
            "refine: the identity has no eigenvalues that a damping could be relative to; set "
            "curvature.relative=false, or choose a curvature that is fitted"
        )
    if curvature.damping == 0:
        raise ValueError("refine: conjugate gradients need a damping above 0; set curvature.damping")


def layer_by_layer(product: Product) -> Product:
    """Products with the diagonal blocks of G alone: each layer's part by itself."""

    def diagonal(direction: Direction, batches: Batches) -> dict[str, Tensor]:
        layers: dict[str, dict[str, Tensor]] = {}
        for name, value in direction.items():
            layers.setdefault(name.rpartition(".")[0], {})[name] = value
        return {name: value for part in layers.values() for name, value in product(part, batches).items()}

    return diagonal


class DampedSystem:
    """The system that conjugate gradients solve.

    Args:
        model: the proxy, in evaluation mode, on the device that computes.
        settings: the form of the products, and whether G is whole.
        curvature, factors: δ, start and preconditioner; layer → factors.
        gradient: g over the tracked parameters.
        blocks_BT: token ids that G is a mean over.
        batch_size: blocks at a time.
        share: which of the blocks are added up here.
        total: sum of a vector over all processes.

    Raises:
        ValueError: the products of this form are not those of the reference (`checked_product`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: ConjugateGradients,
        curvature: Curvature,
        factors: Mapping[str, Mapping[str, Tensor]],
        *,
        gradient: Direction,
        blocks_BT: Tensor,
        batch_size: int,
        share: slice = slice(None),
        total: Callable[[Tensor], Tensor] = lambda vector_N: vector_N,
    ) -> None:
        self._model, self._settings, self._total = model, settings, total
        self._curvature, self._factors = curvature.resolved(factors), factors
        mine_BT = blocks_BT[share]
        self._count, self._batches = len(blocks_BT), mine_BT.split(batch_size) if len(mine_BT) else ()
        self.layout = Layout.of(gradient)
        placed = {name: value.to(model.get_parameter(name)) for name, value in gradient.items()}
        self._product = checked_product(model, settings.form, placed, blocks_BT[:1].to(model.device))
        if not settings.between_layers:
            self._product = layer_by_layer(self._product)
        layers = {name: factors.get(name.rpartition(".")[0], {}) for name in placed}
        self._damping_N = self.layout.join({
            name: torch.full_like(value, self._curvature.delta(layers[name])) for name, value in placed.items()
        })  # fmt: skip
        self.gradient_N = self.layout.join(placed)

    def multiply(self, vector_N: Tensor) -> Tensor:
        """(G + δI) v, with the sums over the blocks of all processes."""
        total_N = self._total(self.layout.join(self._product(self.layout.split(vector_N), self._batches)))
        return total_N / self._count + self._damping_N * vector_N

    def precondition(self, vector_N: Tensor) -> Tensor:
        split = self.layout.split(vector_N)
        return self.layout.join(precondition_direction(self._model, split, self._factors, self._curvature))

    def start(self, direction: Direction) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Where the settings begin, given the curvature's own direction.

        Returns:
            A vector, [N], what the matrix makes of it, and facts of a start that is not zero: `curvature_ratio`,
            vᵀ(G + δI)v / vᵀg of that direction, 1 where it solves the system; `scale`, the best multiple, where that is
            the start.
        """
        if self._settings.start == "zero":
            return torch.zeros_like(self.gradient_N), torch.zeros_like(self.gradient_N), {}
        vector_N = self.layout.join({
            name: value.to(self._model.get_parameter(name)) for name, value in direction.items()
        })  # fmt: skip
        image_N = self.multiply(vector_N)
        facts = {"curvature_ratio": dot(vector_N, image_N) / dot(vector_N, self.gradient_N)}
        if self._settings.start == "curvature":
            return vector_N, image_N, facts
        factor = facts["scale"] = best_factor(image_N, self.gradient_N, vector_N)
        return factor * vector_N, factor * image_N, facts

    def solve(self, start: Tensor | Solution, image_N: Tensor | None = None) -> Iterator[Solution]:
        """The start and the solution after each step, see `conjugate_gradients`."""
        return conjugate_gradients(
            self.multiply, self.gradient_N, start, self.precondition,
            steps=self._settings.steps, tolerance=self._settings.tolerance, image=image_N,
        )  # fmt: skip
