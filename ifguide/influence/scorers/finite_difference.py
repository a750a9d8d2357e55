"""Token scores by a central difference: two ordinary inference passes, the fastest scorer."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ifguide.checks import check_number
from ifguide.influence.scorers.base import (
    Direction,
    TokenScorer,
    check_evaluation_mode,
    check_tracked,
    moves,
    norm,
    same_parameters,
)
from ifguide.influence.scorers.exact import exact_scores
from ifguide.influence.scorers.head import split_output_head
from ifguide.influence.scorers.linear import activations_behind, can_pack, linear_map
from ifguide.models import decoder_blocks, layer_matrix, tracked_layers

FIRST_STEP = 3e-3  # share of the tracked weights' norm


@dataclass(frozen=True)
class FiniteDifference:
    """s ≈ ⟨∇h ℓ, (h(θ + εv) − h(θ − εv)) / 2ε⟩: a difference of last hidden states, then the exact loss behind them.

    Differencing the hidden states instead of the losses keeps the rounding of large logits out of the difference, and
    passes the vocabulary once for all directions. Decoder blocks below the first that a direction moves are computed
    once for both passes.

    Args:
        change: wanted root mean square of ε·s over tokens, in nats: the step ε is measured on the sample, small enough
            for the second order to vanish and large enough for float32.
        tolerance: least correlation with exact scores on the sample.

    Raises:
        ValueError: settings out of range; in `prepare`: a model in less than float32, or scores that do not reach the
            tolerance.
    """

    DTYPES: ClassVar[tuple[str, ...]] = ("float32",)  # lower precision rounds the difference away
    OWN_LOSS: ClassVar[bool] = True

    change: float = 0.003
    tolerance: float = 0.999

    def __post_init__(self) -> None:
        check_number("change", self.change, above=0)
        if not 0 <= self.tolerance <= 1:
            raise ValueError(f"tolerance={self.tolerance}: a correlation lies in [0, 1]")

    @property
    def allowed_error(self) -> float:
        return math.sqrt(1 - self.tolerance**2) / self.tolerance if self.tolerance else math.inf

    def complete(self) -> "FiniteDifference":
        return self

    def passes(self, directions: int) -> tuple[float, float]:
        return 2 * directions, 2

    def prepare(self, model: PreTrainedModel, directions: Sequence[Direction], sample_BT: Tensor) -> TokenScorer:
        check_evaluation_mode(model)
        directions = same_parameters(directions)
        check_tracked(model, directions[0])
        if model.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"finite differences need float32 weights, not {model.dtype}; use scorer=jvp")
        body, head = split_output_head(model)
        exact, sample_BT = exact_scores(model, directions, sample_BT, fast=True)
        steps = [self._step(model, direction, scores) for direction, scores in zip(directions, exact, strict=True)]
        layers = tracked_layers(model)
        fused = _fuse_activations(model, layers, lambda: body(sample_BT[:1, :2]))
        still = {name: layer for name, layer in layers.items() if not moves(directions[0], name)}
        moving = {name: layer for name, layer in layers.items() if name not in still}
        moved = [
            tuple(_moved_layers(moving, direction, sign * step, fused) for sign in (1, -1))
            for direction, step in zip(directions, steps, strict=True)
        ]
        for name, forward in _moved_layers(still, {}, 0.0, fused).items():
            layers[name].forward = forward

        def run(forwards: Mapping[str, Callable[[Tensor], Tensor]], input_ids: Tensor) -> Tensor:
            for name, forward in forwards.items():
                layers[name].forward = forward
            return body(input_ids)

        shared = _blocks_below(model, directions[0])

        def score(input_ids: Tensor) -> Tensor:
            with torch.no_grad(), computed_once(shared):
                middle, tangents = None, []
                for (plus, minus), step in zip(moved, steps, strict=True):
                    high, low = run(plus, input_ids), run(minus, input_ids)
                    tangents.append((high - low).div_(2 * step))
                    # all directions' middles are the hidden states at θ up to the second order
                    middle = (high + low).div_(2) if middle is None else middle
                assert middle is not None
                return head.loss_tangents(middle, torch.stack(tangents), input_ids)

        scorer = TokenScorer(score)
        facts = _agreement(exact[..., 1:], scorer(sample_BT)[..., 1:].to(exact)) | {"steps": steps}
        if not all(value >= self.tolerance for value in facts["correlation"]):  # not a number fails, too
            raise ValueError(
                f"tolerance={self.tolerance}: finite differences correlate only {min(facts['correlation']):.5f} with "
                f"exact scores on {len(sample_BT)} blocks; use another `change`, or scorer=jvp"
            )
        return TokenScorer(score, facts)

    def _step(self, model: PreTrainedModel, direction: Direction, exact_BT: Tensor) -> float:
        size = float(exact_BT[:, 1:].double().square().mean().sqrt())
        if size == 0:
            return 1.0
        limit = FIRST_STEP * 10 * norm({n: model.get_parameter(n).detach() for n in direction}) / norm(direction)
        return min(self.change / size, limit)


def _fuse_activations(
    model: PreTrainedModel, layers: Mapping[str, nn.Module], run: Callable[[], Tensor]
) -> dict[str, nn.Module]:
    """Layer name → the activation behind it, for the layer's map to compute; the module then hands its input on."""
    if not all(can_pack(layer.get_parameter("weight")) for layer in layers.values()):
        return {}
    with torch.no_grad():
        fused = activations_behind(model, layers, run)
    for activation in fused.values():
        activation.forward = lambda x: x
    return fused


def _moved_layers(
    layers: Mapping[str, nn.Module], direction: Direction, step: float, activations: Mapping[str, nn.Module]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Layer name → what it computes with its weights moved by a step along the direction."""
    forwards: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, layer in layers.items():
        values = {key: value.detach() for key, value in layer.named_parameters(recurse=False)}
        for key in values:
            if f"{name}.{key}" in direction:
                values[key] = values[key] + step * direction[f"{name}.{key}"]
        weight, bias = values["weight"], values.get("bias")
        forwards[name] = partial(linear_map(layer_matrix(layer, weight, None), activations.get(name)), bias=bias)
    return forwards


def _agreement(exact: Tensor, ours: Tensor) -> dict[str, list[float]]:
    correlation, error = [], []
    for a, b in zip(exact.flatten(1).double(), ours.flatten(1).double(), strict=True):
        same = bool((a == 0).all() and (b == 0).all())
        correlation.append(1.0 if same else float(torch.corrcoef(torch.stack([a, b]))[0, 1]))
        error.append(0.0 if same else float((a - b).std() / a.std()))
    return {"correlation": correlation, "relative_error": error}


def _blocks_below(model: PreTrainedModel, direction: Direction) -> Sequence[nn.Module]:
    """Decoder blocks before the first one that the direction moves."""
    prefix, blocks = decoder_blocks(model)
    moved = {int(name.removeprefix(f"{prefix}.").split(".")[0]) for name in direction}
    return list(blocks)[: min(moved)]


@contextmanager
def computed_once(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Within this context some successive blocks compute on their first call; afterwards they hand on what the last of
    them returned."""
    kept: dict[str, Any] = {}
    forwards: list[Callable[..., Any]] = [block.forward for block in blocks]

    def once(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **options: Any) -> Any:
            if "output" in kept:
                return kept["output"]
            output = forwards[index](*args, **options)
            if index == len(blocks) - 1:
                kept["output"] = output
            return output

        return forward

    for index, block in enumerate(blocks):
        block.forward = once(index)
    try:
        yield
    finally:
        for block, forward in zip(blocks, forwards, strict=True):
            block.forward = forward
