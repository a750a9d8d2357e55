"""Ways to compute with a model: how much arithmetic each is, and one batch of it on random tokens, to be timed.

Backward passes count twice their forward pass: a matrix's gradient, and that of what it was given. FLOPs are those of
products of matrices alone, as `torch.utils.flop_counter` counts them with unfused attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.cost.shape import ModelShape
from ifguide.decoding import Decoder, Nucleus
from ifguide.decoding.generation import sample_continuations
from ifguide.influence.scorers import Scorer
from ifguide.models import tracked_parameters
from ifguide.objectives.language_modeling import cross_entropy, token_losses

RATE = 1e-6  # of the optimiser that is timed: no weight becomes infinite


def random_tokens(model: PreTrainedModel, rows: int, length: int) -> Tensor:
    generator, embeddings = torch.Generator().manual_seed(rows * 100_003 + length), embeddings_of(model)
    return torch.randint(embeddings.shape[0], (rows, length), generator=generator).to(model.device)


def embeddings_of(model: PreTrainedModel) -> Tensor:
    layer: Any = model.get_input_embeddings()
    weight: Tensor = layer.weight
    return weight


@dataclass(frozen=True)
class Forward:
    """Losses of blocks, without gradients."""

    name: str = "forward"

    def flops(self, model: ModelShape, rows: int, length: int) -> float:
        return rows * model.forward(length)

    def weight_reads(self, length: int) -> float:
        return 1

    def run(self, model: PreTrainedModel, rows: int, length: int) -> None:
        ids = random_tokens(model, rows, length)
        with torch.no_grad():
            token_losses(model(input_ids=ids, use_cache=False).logits, ids)


@dataclass(frozen=True)
class Gradient:
    """Losses and their gradient by the weights of the decoder blocks; the head's weights have none."""

    name: str = "gradient"

    def flops(self, model: ModelShape, rows: int, length: int) -> float:
        return rows * (3 * model.body(length) + 2 * model.head(length))

    def weight_reads(self, length: int) -> float:
        return 3

    def run(self, model: PreTrainedModel, rows: int, length: int) -> None:
        ids, wanted = random_tokens(model, rows, length), list(tracked_parameters(model).values())
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in wanted:
            parameter.requires_grad_(True)
        token_losses(model(input_ids=ids, use_cache=False).logits, ids).sum().backward()
        for parameter in wanted:
            parameter.grad = None


_OPTIMIZERS: WeakKeyDictionary[PreTrainedModel, torch.optim.Optimizer] = WeakKeyDictionary()


@dataclass(frozen=True)
class Training:
    """Losses, the gradient by all weights, and a step of AdamW."""

    name: str = "training"

    def flops(self, model: ModelShape, rows: int, length: int) -> float:
        return 3 * rows * model.forward(length)

    def weight_reads(self, length: int) -> float:
        return 3

    def run(self, model: PreTrainedModel, rows: int, length: int) -> None:
        ids = random_tokens(model, rows, length)
        model.requires_grad_(True)
        if model not in _OPTIMIZERS:
            _OPTIMIZERS[model] = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
        cross_entropy(model(input_ids=ids, use_cache=False).logits, ids).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        _OPTIMIZERS[model].step()
        _OPTIMIZERS[model].zero_grad()


@dataclass(frozen=True)
class Scoring:
    """Scores of blocks by a scorer.

    Args:
        scorer: how; its `passes` says how many forward passes that is.
        directions: how many.
    """

    scorer: Scorer
    directions: int = 1
    name: str = "scoring"
    _prepared: WeakKeyDictionary[PreTrainedModel, Any] = field(default_factory=WeakKeyDictionary, compare=False)

    def flops(self, model: ModelShape, rows: int, length: int) -> float:
        body, head = self.scorer.passes(self.directions)
        return rows * (body * model.body(length) + head * model.head(length))

    def weight_reads(self, length: int) -> float:
        return 2

    def run(self, model: PreTrainedModel, rows: int, length: int) -> None:
        ids = random_tokens(model, rows, length)
        if model not in self._prepared:
            model.eval()
            direction: Mapping[str, Tensor] = {
                name: torch.randn(value.shape).to(value) for name, value in tracked_parameters(model).items()
            }
            self._prepared[model] = self.scorer.prepare(model, [direction] * self.directions, ids[:1])
        self._prepared[model](ids)


@dataclass(frozen=True)
class Products:
    """Products of square matrices as wide as hidden states, one for each row: accumulations, rotations."""

    name: str = "products"

    def flops(self, model: ModelShape, rows: int, length: int) -> float:
        return rows * 2.0 * model.width**3

    def weight_reads(self, length: int) -> float:
        return 0

    def run(self, model: PreTrainedModel, rows: int, length: int) -> None:
        width = embeddings_of(model).shape[1]
        matrix = torch.ones(width, width, device=model.device)
        for _ in range(rows):
            matrix @ matrix


@dataclass(frozen=True)
class Generating:
    """Sampled continuations of prompts, with a cache; `rows` are sequences, `length` is that of a prompt.

    Args:
        samples: of each prompt, which is read once.
        new: tokens of a continuation.
        decoder: shapes the next token's distribution.
    """

    samples: int
    new: int
    decoder: Decoder = field(default_factory=Nucleus)
    name: str = "generation"

    def flops(self, model: ModelShape, rows: int, length: int) -> float:
        prompts = -(-rows // self.samples)
        seen = length + self.new / 2
        steps = self.new - 1  # the first new token comes from the prompt
        new = rows * steps * (model.head(1) + 2.0 * model.block_weights + 4.0 * model.layers * seen * model.attended)
        return prompts * model.forward(length) + new

    def weight_reads(self, length: int) -> float:
        return self.new

    def run(self, model: PreTrainedModel, rows: int, length: int) -> None:
        prompts = random_tokens(model, -(-rows // self.samples), length).tolist()
        sample_continuations(
            model, prompts, decoder=self.decoder, samples=self.samples, max_new_tokens=self.new, end_of_text=-1,
            rows=rows, seed=0,
        )  # fmt: skip


forward, gradient, train, products = Forward(), Gradient(), Training(), Products()
