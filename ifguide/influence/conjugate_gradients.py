"""Refine a direction: solve (G + δI) v = g by conjugate gradients, with the exact Gauss–Newton matrix G.

The factors of the curvature give the start, the damping δ of each layer, and the preconditioner: the direction that
they yield alone ignores all curvature between layers (IF-Guide's own v; Hestenes & Stiefel, 1952, for the method).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ifguide.checks import check_seed, check_whole_number
from ifguide.influence.scorers.jvp import FORMS

# N tracked parameters, in one vector

STARTS = ("curvature", "scaled", "zero")
Linear = Callable[[Tensor], Tensor]  # [N] → [N]


@dataclass(frozen=True)
class ConjugateGradients:
    """How a direction is refined.

    Args:
        steps: at most; each is one product with G on all blocks.
        tolerance: stop where the residual g − (G + δI) v has fallen to this share of g, in norm.
        blocks: training blocks that G is a mean over, sampled at random.
        start: `curvature`, the direction of the factors; `scaled`, that times gᵀv / vᵀ(G + δI)v, the best of its
            multiples; `zero`.
        between_layers: G as a whole; False: only its diagonal blocks, layer by layer, at a product per layer.
        seed: of the sample of blocks.
        form: of the products: `fast`, or `reference` for any architecture.

    Raises:
        ValueError: an argument out of range.
    """

    NOT_SETTINGS: ClassVar[tuple[str, ...]] = ("form",)

    steps: int = 20
    tolerance: float = 0.01
    blocks: int = 256
    start: str = "curvature"
    between_layers: bool = True
    seed: int = 0
    form: str = "fast"

    def __post_init__(self) -> None:
        check_whole_number("steps", self.steps, least=1)
        check_whole_number("blocks", self.blocks, least=1)
        check_seed(self.seed)
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance}: a share of the gradient's norm, in [0, 1)")
        for name, known in (("start", STARTS), ("form", FORMS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)}: known: {', '.join(known)}")


@dataclass(frozen=True)
class Solution:
    """Where conjugate gradients stand: enough to go on.

    Attributes:
        solution: v, [N].
        residual: g − A v, [N].
        search: the direction of the next step, [N].
        norms: ‖residual‖ / ‖g‖ before the first step and after each.
    """

    solution: Tensor
    residual: Tensor
    search: Tensor
    norms: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.norms) - 1


def conjugate_gradients(
    product: Linear,
    gradient: Tensor,
    start: Tensor | Solution,
    precondition: Linear,
    *,
    steps: int,
    tolerance: float,
    image: Tensor | None = None,
) -> Iterator[Solution]:
    """Preconditioned conjugate gradients for A v = g; sums are taken in float64.

    Args:
        product: v → A v; A symmetric and positive definite.
        gradient: g.
        start: of v, or a solution to go on with.
        precondition: r → M⁻¹ r; M likewise, near A.
        steps: at most, those of `start` included.
        tolerance: stop at this ‖g − A v‖ / ‖g‖.
        image: A times the start, where it is known.

    Yields:
        The start, and the solution after each step.

    Raises:
        ValueError: A is not positive definite, or something is no longer finite.
    """
    size = math.sqrt(dot(gradient, gradient))
    if not 0 < size < math.inf:
        raise ValueError(f"the gradient of the queries has a norm of {size:g}: there is no direction to refine")

    def relative(residual: Tensor) -> float:
        return math.sqrt(dot(residual, residual)) / size

    if isinstance(start, Solution):
        now, conditioned = start, precondition(start.residual)
    else:
        residual = gradient - (product(start) if image is None else image)
        conditioned = precondition(residual)
        now = Solution(start, residual, conditioned, (relative(residual),))
        yield now
    before = dot(now.residual, conditioned)
    while now.steps < steps and not now.norms[-1] <= tolerance:  # what is no number is not yet there
        image = product(now.search)
        curvature = dot(now.search, image)
        if not 0 < curvature < math.inf:
            raise ValueError(
                f"the curvature along step {now.steps + 1} is {curvature:g}: not positive; use a larger damping"
            )
        length = before / curvature
        residual = now.residual - length * image
        conditioned = precondition(residual)
        after = dot(residual, conditioned)
        now = Solution(
            now.solution + length * now.search,
            residual,
            conditioned + (after / before) * now.search,
            (*now.norms, relative(residual)),
        )
        before = after
        yield now


def best_factor(image: Tensor, gradient: Tensor, vector: Tensor) -> float:
    """gᵀv / vᵀAv, from A v: that times v minimises ½ vᵀAv − gᵀv among the multiples of v."""
    return dot(gradient, vector) / dot(vector, image)


def dot(one: Tensor, other: Tensor) -> float:
    return float(one.double() @ other.double())
