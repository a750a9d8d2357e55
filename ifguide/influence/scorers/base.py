"""The interface of a scorer: (model, directions) → a function from blocks to token scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ifguide.hardware import AUTO
from ifguide.models import tracked_parameters

Direction = Mapping[str, Tensor]  # parameter name → tensor of that parameter's shape


@dataclass(frozen=True)
class TokenScorer:
    """A scorer made ready for one model and k directions.

    Attributes:
        score: [B, T] token ids → [k, B, T] scores on the model's device, float32 at least; s[·,n,t] belongs to token
            x[n,t], and s[·,n,0] = 0.
        facts: what the scorer measured of itself while it was made ready, for the manifest.
    """

    score: Callable[[Tensor], Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, input_ids: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("token scores cannot be taken in torch.inference_mode; use torch.no_grad")
        return self.score(input_ids)


class Scorer(Protocol):
    """Gives every token of some blocks its influence along directions.

    `prepare` takes the model over: it may change how the model computes (never what), so hand it a copy of a model
    that is used elsewhere. The model is in evaluation mode and on the device that will score.

    Attributes:
        DTYPES: dtypes that a model may have.
        OWN_LOSS: a token's score is the derivative of its own loss; otherwise only the sum over a block is that of the
            block's losses.
    """

    DTYPES: ClassVar[tuple[str, ...]]
    OWN_LOSS: ClassVar[bool]

    @property
    def allowed_error(self) -> float:
        """Relative error that its settings allow beside exact scores; 0 where rounding is all."""
        ...

    def complete(self) -> "Scorer | None":
        """The scorer without what it leaves out on purpose; None where it is the reference that others are checked
        with."""
        ...

    def passes(self, directions: int) -> tuple[float, float]:
        """Its arithmetic in forward passes, of the decoder blocks and of the output head."""
        ...

    def prepare(self, model: PreTrainedModel, directions: Sequence[Direction], sample_BT: Tensor) -> TokenScorer:
        """Make ready for scoring.

        Args:
            model: the proxy.
            directions: one per behaviour, over tracked parameters or some of them.
            sample_BT: a few blocks, the same in every process, on which a scorer may choose and check its settings.
        """
        ...


def same_parameters(directions: Sequence[Direction]) -> list[Direction]:
    """The directions over the union of their parameters, with zeros where one does not go."""
    shapes = {name: value for direction in directions for name, value in direction.items()}
    return [
        {name: direction[name] if name in direction else torch.zeros_like(value) for name, value in shapes.items()}
        for direction in directions
    ]


def check_tracked(model: PreTrainedModel, direction: Direction) -> None:
    """Raise ValueError where a direction moves what is no weight or bias of a tracked layer, as a norm's weight."""
    if other := sorted(set(direction) - set(tracked_parameters(model))):
        raise ValueError(
            f"the direction moves {other[0]}, which is not of a tracked layer; use scorer=jvp scorer.form=reference"
        )


def moves(direction: Direction, layer: str) -> bool:
    """Whether a direction moves a layer's weight or bias."""
    return f"{layer}.weight" in direction or f"{layer}.bias" in direction


def weight_of(direction: Direction, layer: str, module: nn.Module) -> Tensor:
    """What a direction has for the weight of a layer; zeros where it moves the bias alone."""
    found = direction.get(f"{layer}.weight")
    return torch.zeros_like(module.get_parameter("weight")) if found is None else found


def norm(tensors: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all tensors together."""
    return float(sum(tensor.double().square().sum() for tensor in tensors.values()) ** 0.5)


def check_dtype(scorer: Scorer, dtype: str) -> None:
    """Raise ValueError where a scorer does not take models of a dtype."""
    if dtype not in (AUTO, *scorer.DTYPES):
        raise ValueError(f"influence.dtype={dtype}: {type(scorer).__name__} takes {' or '.join(scorer.DTYPES)}")


def check_evaluation_mode(model: PreTrainedModel) -> None:
    assert not model.training, "scores are defined for the model in evaluation mode"
