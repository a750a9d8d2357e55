"""A step of attribute-controlled fine-tuning."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifguide.methods.attribute_control.loss import controlled_losses
from ifguide.methods.nado import GuidanceHead
from ifguide.methods.nado.model import read
from ifguide.objectives.language_modeling import cross_entropy, precise
from ifguide.training.module import OptimizedModule
from ifguide.training.optimization import Optimization

# B blocks, T tokens, V vocabulary, M places


class ControlledModule(OptimizedModule):
    """Trains a language model on batches of `ControlledBlocks`.

    Args:
        model: the language model.
        guidance: R̂, which does not learn here.
        previous: a frozen copy of the model as it was, whose p and hidden states are in q*; None: the model's own,
            which need no forward pass more.
        optimization, steps, seed, compiled: as in `OptimizedModule`.
        weight: λ.
    """

    def __init__(
        self,
        model: nn.Module,
        guidance: GuidanceHead,
        previous: nn.Module | None,
        optimization: Optimization,
        *,
        steps: int,
        seed: int,
        weight: float,
        compiled: bool = False,
    ) -> None:
        super().__init__(model, optimization, steps=steps, seed=seed, compiled=compiled)
        self._weight = weight
        teachers = [guidance] if previous is None else [guidance, previous]
        self._teachers = [one.requires_grad_(False).eval() for one in teachers]  # in no checkpoint

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean over predicted tokens of ℓ + λ·KL(q* ‖ p_θ), the latter where a token is regularised."""
        ids_BT = batch["input_ids"]
        if self._weight == 0:
            return self.validation_loss(batch)
        # the last place predicts nothing; without it, the logits would have to be copied
        labels_BT = F.pad(ids_BT[:, 1:], (0, 1))
        wanted_BT = F.pad(batch["regularised"][:, 1:], (0, 1)) if "regularised" in batch else torch.ones_like(ids_BT)
        logits_BTV, hidden_BTH = read(self.network, ids_BT)
        guidance, *previous = (one.to(next(self.model.parameters())) for one in self._teachers)
        teacher_MV = None
        with torch.no_grad():
            if previous:
                teacher_BTV, hidden_BTH = read(previous[0], ids_BT)
                teacher_MV = precise(teacher_BTV.flatten(0, 1))
            guidance_MV = precise(guidance(hidden_BTH.flatten(0, 1)))
        logits_MV, labels_M, wanted_M = precise(logits_BTV.flatten(0, 1)), labels_BT.flatten(), wanted_BT.flatten()
        weights_M = self._weight * wanted_M.to(logits_MV.dtype)
        losses_M = controlled_losses(logits_MV, labels_M, guidance_MV, weights_M, teacher_MV)
        return losses_M.view(ids_BT.shape)[:, :-1].mean()

    def validation_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        return cross_entropy(self.network(input_ids=batch["input_ids"], use_cache=False).logits, batch["input_ids"])
