"""A step of attribute-controlled fine-tuning: the language model's loss and, in the parallel scheme, R̂'s."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ifguide.methods.attribute_control.examples import SAMPLES
from ifguide.methods.attribute_control.loss import controlled_losses
from ifguide.methods.nado import GuidanceHead, GuidanceTraining
from ifguide.methods.nado.model import read
from ifguide.methods.nado.samples import guidance_loss
from ifguide.objectives.language_modeling import cross_entropy, precise
from ifguide.training.module import OptimizedModule
from ifguide.training.optimization import Optimization

# B blocks, T tokens, V vocabulary, M places


class ControlledModule(OptimizedModule):
    """Trains a language model on batches of `ControlledBlocks`.

    Args:
        model: the language model.
        guidance: R̂, which only teaches here.
        previous: a frozen copy of the model as it was, whose p and hidden states are in q*; None: the model's own,
            which need no forward pass more.
        optimization, steps, seed: as in `OptimizedModule`.
        weight: λ.
        learner: the R̂ of the next round, which learns from samples beside the model; None: none does.
        training: of the learner.
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
        learner: GuidanceHead | None,
        training: GuidanceTraining,
    ) -> None:
        super().__init__(model, optimization, steps=steps, seed=seed)
        self.learner, self._weight, self._training = learner, weight, training
        teachers = [guidance] if previous is None else [guidance, previous]
        self._teachers = [one.requires_grad_(False).eval() for one in teachers]  # in no checkpoint

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        loss = self.model_loss(batch)
        if self.learner is not None:
            samples = {key.removeprefix(SAMPLES): value for key, value in batch.items() if key.startswith(SAMPLES)}
            # R̂ reads what needs no gradient, so that this is a step of R̂ and no step of the model
            loss = loss + guidance_loss(self.model, self.learner, samples, consistency=self._training.consistency)
        return loss

    def model_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean over predicted tokens of ℓ + λ·KL(q* ‖ p_θ), the latter where a token is regularised."""
        ids_BT = batch["input_ids"]
        if self._weight == 0:
            return self.validation_loss(batch)
        # the last place predicts nothing; without it, the logits would have to be copied
        labels_BT = F.pad(ids_BT[:, 1:], (0, 1))
        wanted_BT = F.pad(batch["regularised"][:, 1:], (0, 1)) if "regularised" in batch else torch.ones_like(ids_BT)
        logits_BTV, hidden_BTH = read(self.model, ids_BT)
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
        return cross_entropy(self.model(input_ids=batch["input_ids"], use_cache=False).logits, batch["input_ids"])

    def clipped(self) -> Sequence[Iterable[nn.Parameter]]:
        return [self.model.parameters(), *([] if self.learner is None else [self.learner.parameters()])]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The model's optimiser and schedule; the learner has its own peak and decay."""
        if self.learner is None:
            return super().configure_optimizers()
        optimizer, _ = self._optimization.configure(self.model.named_parameters(), self._steps)
        theirs = self._training.optim
        group = {"params": list(self.learner.parameters()), "lr": theirs.learning_rate}
        if "weight_decay" in optimizer.defaults:
            group["weight_decay"] = theirs.weight_decay
        optimizer.add_param_group(group)
        rate = self._optimization.schedule.rate
        schedule = LambdaLR(optimizer, lambda step: rate(step, self._steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
