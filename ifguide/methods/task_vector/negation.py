"""θ₀ − α(θ_toxic − θ₀): weights without what fine-tuning on toxic text adds to them."""

from dataclasses import dataclass

import torch
from torch import nn

from ifguide.checks import check_number
from ifguide.methods.dexperts import ExpertTraining


@dataclass(frozen=True, kw_only=True)
class TaskVector:
    """Negation of the task vector of toxic text, whose model is the anti-expert of DExperts.

    Args:
        anti_expert: how the row's model is fine-tuned on the toxic labelled texts.
        alpha: α; 0 leaves the model as it is.

    Raises:
        ValueError: an argument out of range.
    """

    anti_expert: ExpertTraining
    alpha: float = 0.5

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, least=0)
        toxic, start, epochs = self.anti_expert.toxic, self.anti_expert.pretrained, self.anti_expert.optim.epochs
        for name, value, rule, ok in (
            ("toxic", toxic, "the vector points to toxic text: true", toxic),
            ("pretrained", start, "the vector begins at the row's own model: null", start is None),
            ("optim.epochs", epochs, "a model that is not trained has no vector", epochs > 0),
        ):
            if not ok:
                raise ValueError(f"anti_expert.{name}={value}: {rule}")


@torch.no_grad()
def negate(model: nn.Module, toxic: nn.Module, *, alpha: float) -> None:
    """θ ← θ − α(θ_toxic − θ) for every weight of a model, in place (Ilharco et al., 2023, Section 2).

    Weights are parameters of floating-point numbers: one that is tied to several places is moved once, buffers and
    whole numbers stay the model's.

    Args:
        model: at θ₀.
        toxic: a model of the same parameters.
        alpha: α; at 0 nothing is touched.

    Raises:
        ValueError: the parameters of the two have different names or shapes.
    """
    theirs = dict(toxic.named_parameters())
    ours = dict(model.named_parameters())
    for name in ours.keys() | theirs.keys():
        shapes = [tuple(of[name].shape) if name in of else None for of in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name}: a model and its fine-tuned copy have the same weights, not {shapes}")
    if alpha == 0:
        return  # −0 − 0 · (θ_toxic − θ) may be +0
    for name, weight in ours.items():
        if weight.is_floating_point():
            weight.sub_(theirs[name] - weight, alpha=alpha)
