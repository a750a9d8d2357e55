"""Metagradients: the exact derivative of a trained model's loss with respect to the loss weight of each training token.

Training is a function of the weights w of its tokens' losses, (θ, m, v) ← step(θ, m, v, w). The derivative of any loss
of the last θ is the product of all steps' Jacobians, taken from the last step to the first, as in MAGIC (Ilyas &
Engstrom, 2025; Engstrom et al., 2025). Nothing is approximated. States are kept at some steps only: each stretch
between two of them is replayed, and each step's Jacobian is a reverse pass through the step's own gradient. It takes
several times as long as training, and is meant for small models and a few hundred steps: what scores are held against.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, vjp

Parameters = Mapping[str, Tensor]
Losses = Callable[[Parameters, Tensor], Tensor]  # parameters, [B, T] token ids → [B, T] losses, column 0 is 0
State = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]  # weights, and AdamW's two moments

# N blocks of the corpus, B blocks of a step, T tokens, K objectives


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW (Loshchilov & Hutter, 2019) as torch has it, with clipped gradients, in differentiable operations.

    Args:
        rates: learning rate of each step.
        betas, epsilon: of the moments, and of the denominator √v + ε.
        root_epsilon: added to v under the root. With 0 the steps are those of torch; a weight whose gradient hardly
            differs from 0 then has a derivative of the order of 1/ε.
        weight_decay: of matrices; vectors are not decayed.
        clip: largest norm of the gradient.
    """

    rates: Sequence[float]
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    root_epsilon: float = 0.0
    weight_decay: float = 0.0
    clip: float = inf

    def __call__(self, state: State, gradients: Parameters, index: int) -> State:
        """The state after a step, from the one before it and its gradients; steps count from 0."""
        weights, first, second = state
        rate, (beta1, beta2) = self.rates[index], self.betas
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        scale = (self.clip / (norm + 1e-6)).clamp(max=1.0) if isfinite(self.clip) else 1.0
        moved: State = ({}, {}, {})
        for name, weight in weights.items():
            g = gradients[name] * scale
            m = beta1 * first[name] + (1 - beta1) * g
            v = beta2 * second[name] + (1 - beta2) * g.square()
            denominator = _root(v / (1 - beta2 ** (index + 1)) + self.root_epsilon) + self.epsilon
            decay = self.weight_decay if weight.ndim >= 2 else 0.0
            step = m / (1 - beta1 ** (index + 1)) / denominator
            for part, value in zip(moved, (weight * (1 - rate * decay) - rate * step, m, v), strict=True):
                part[name] = value
        return moved


@dataclass(frozen=True, kw_only=True)
class WeightedTraining:
    """A training whose steps minimise Σ w[n, t] ℓ[n, t] / (B (T − 1)) over the blocks of a step.

    Args:
        losses: of tokens; deterministic, and twice differentiable by reverse mode (no fused attention).
        ids_NT: token ids of the corpus.
        rows: the blocks of each step.
        optimizer: as many rates as there are steps.
    """

    losses: Losses
    ids_NT: Tensor
    rows: Sequence[NDArray[np.int64]]
    optimizer: AdamW

    def step(self, state: State, weights_BT: Tensor, index: int) -> State:
        """The state after one step; `weights_BT` are those of its blocks."""
        ids_BT = self.ids_NT[torch.from_numpy(self.rows[index]).to(self.ids_NT.device)]

        def loss(parameters: Parameters) -> Tensor:
            losses_BT = self.losses(parameters, ids_BT)
            return (weights_BT * losses_BT).sum() / losses_BT[:, 1:].numel()

        return self.optimizer(state, grad(loss)(state[0]), index)

    def states(self, state: State, weights_NT: Tensor, first: int, end: int) -> Iterator[State]:
        """The states before the steps from `first` on, and the one before `end`."""
        yield state
        for index in range(first, end):
            state = _detached(self.step(state, weights_NT[self.rows[index]], index))
            yield state

    def train(self, start: Parameters, weights_NT: Tensor) -> dict[str, Tensor]:
        """The weights after all steps."""
        for state in self.states(begin(start), weights_NT, 0, len(self.rows)):
            last = state
        return last[0]

    def metagradients(
        self,
        start: Parameters,
        weights_NT: Tensor,
        objectives: Callable[[Parameters], Tensor],
        *,
        every: int | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Train, and differentiate what came of it.

        Args:
            start: initial weights.
            weights_NT: w, in the precision of the weights.
            objectives: last weights → [K] losses.
            every: steps between states that are kept, which also bounds the states of a stretch; None: √steps.
            progress: wraps the steps of the reverse pass, as `tqdm` does.

        Returns:
            The last weights, and ∂ objective[k] / ∂ w[n, t], [K, N, T]; 0 for blocks of no step.
        """
        steps = len(self.rows)
        every = every or max(1, round(sqrt(steps)))
        kept: dict[int, State] = {}
        for index, state in enumerate(self.states(begin(start), weights_NT, 0, steps)):
            if index % every == 0:
                kept[index] = state
            last = state[0]
        pulled: Any = vjp(objectives, last)
        values, pull = pulled
        zeros = {name: torch.zeros_like(weight) for name, weight in last.items()}
        adjoints: list[State] = [(pull(one)[0], zeros, zeros) for one in torch.eye(len(values)).to(values)]
        found = torch.zeros(len(values), *weights_NT.shape, dtype=weights_NT.dtype, device=weights_NT.device)
        stretch: list[State] = []
        for index in progress(range(steps - 1, -1, -1)):
            first = index // every * every
            if index == steps - 1 or (index + 1) % every == 0:
                stretch = list(self.states(kept.pop(first), weights_NT, first, index))
            rows = torch.from_numpy(self.rows[index]).to(weights_NT.device)

            def one_step(state: State, weights_BT: Tensor, index: int = index) -> State:
                return self.step(state, weights_BT, index)

            pulled = vjp(one_step, stretch.pop(), weights_NT[rows])
            _, pull = pulled
            for k, adjoint in enumerate(adjoints):
                adjoints[k], of_weights_BT = pull(adjoint)
                found[k].index_add_(0, rows, of_weights_BT)
        return last, found


def begin(weights: Parameters) -> State:
    """The state before the first step."""
    kept = {name: weight.detach() for name, weight in weights.items()}
    zeros = {name: torch.zeros_like(weight) for name, weight in kept.items()}
    return kept, zeros, zeros


def _root(values: Tensor) -> Tensor:
    """√x, whose derivative at 0 is taken as 0: nothing moves a weight there that no token has a gradient for."""
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)


def _detached(state: State) -> State:
    weights, first, second = ({name: value.detach() for name, value in part.items()} for part in state)
    return weights, first, second
