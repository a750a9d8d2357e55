"""Training of DPO: a policy, and where it began; of SimPO: the policy alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from ifguide.checks import argument, check_seed, check_whole_number
from ifguide.corpus.pairs import EncodedPair
from ifguide.methods.dpo.loss import preference_loss, response_divergence, simple_preference_loss
from ifguide.methods.dpo.pairs import (
    PairExamples,
    pair_lengths,
    pair_log_probabilities,
    reference_log_probabilities,
)
from ifguide.training.auxiliary import check_validation
from ifguide.training.context import TrainingContext
from ifguide.training.data import hold_out
from ifguide.training.fit import Stopping, train_on_examples
from ifguide.training.module import OptimizedModule
from ifguide.training.optimization import Optimization
from ifguide.training.predictions import FrozenCopy
from ifguide.training.trainer import check_every


class PreferenceModule(OptimizedModule):
    """Trains a policy on batches of `PairExamples`.

    Args:
        model: the policy.
        reference: a frozen copy of where it began, for the KL term; None without one.
        beta, kl: β and γ of the loss, see `DPO`.
        optimization, steps, seed, fused: as in `OptimizedModule`.
    """

    shares = True

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module | None,
        optimization: Optimization,
        *,
        beta: float,
        kl: float,
        steps: int,
        seed: int,
        fused: bool | None = None,
    ) -> None:
        super().__init__(model, optimization, steps=steps, seed=seed, fused=fused)
        self._beta, self._kl = beta, kl
        self._reference = None if reference is None else FrozenCopy(reference, lambda: self.model, fused=fused)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits = self._predict(batch["input_ids"])
        loss = preference_loss(pair_log_probabilities(logits, batch), batch["reference"], beta=self._beta)
        if self._reference is not None:
            theirs = self._reference(batch["input_ids"])
            # the mean over both halves of the batch is half the sum of KL_chosen and KL_rejected
            loss = loss + 2 * self._kl * response_divergence(logits, theirs, batch["response"])
        return loss


class SimplePreferenceModule(OptimizedModule):
    """Trains a policy on batches of `PairExamples` that need no reference.

    Args:
        model: the policy.
        beta, margin: of `simple_preference_loss`.
        optimization, steps, seed, fused: as in `OptimizedModule`.
    """

    shares = True

    def __init__(
        self,
        model: nn.Module,
        optimization: Optimization,
        *,
        beta: float,
        margin: float,
        steps: int,
        seed: int,
        fused: bool | None = None,
    ) -> None:
        super().__init__(model, optimization, steps=steps, seed=seed, fused=fused)
        self._beta, self._margin = beta, margin

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        policy = pair_log_probabilities(self._predict(batch["input_ids"]), batch)
        return simple_preference_loss(policy, pair_lengths(batch), beta=self._beta, margin=self._margin)


@dataclass(frozen=True)
class DPO:
    """Direct preference optimisation of a trained model: no dropout, the weights of the best validation loss.

    The loss is −log σ(β·margin) + γ·(KL_chosen + KL_rejected), the KL(reference ‖ policy) averaged over positions. At
    the reference's own weights it is log 2; they are kept where no validation is below that.

    With `reference=False` it is SimPO (Meng et al., 2024): `simple_preference_loss`, in which the margin is between
    mean log-probabilities of a token, and nothing is compared with where the policy began. Its β is larger: 2 to 2.5 in
    the paper, with γ from 0.5 to 1.6.

    Args:
        optim: how it is optimised; it counts pairs where it speaks of blocks.
        beta: β.
        kl: γ; 0 needs no second forward pass.
        reference: whether the loss compares with where the policy began; without, it is SimPO's.
        margin: γ of SimPO.
        max_length: tokens of prompt and response together; longer ones are cut, see `encode_pairs`.
        validation: share of the pairs held out.
        validate_every: optimiser steps between validations, or below 1 a share of all steps; the last step is validated
            too.
        patience: validations without improvement after which training stops.
        seed: of the data order and of what is held out.

    Raises:
        ValueError: a setting out of range, one of SimPO's beside a reference, or `kl` without one.
    """

    LEFT_OUT_AT_DEFAULT: ClassVar = ("reference", "margin")

    optim: Optimization
    beta: float = 0.1
    kl: float = 0.0
    max_length: int = 128
    validation: float = 0.1
    validate_every: float = 5
    patience: int = 3
    seed: int = 0
    reference: bool = True
    margin: float = 0.0

    def __post_init__(self) -> None:
        check_validation(self.validation)
        check_seed(self.seed)
        check_every("validate_every", self.validate_every)
        check_whole_number("max_length", self.max_length, least=2)
        check_whole_number("patience", self.patience, least=1)
        for name, rule, ok in (
            ("beta", "above 0", self.beta > 0),
            ("kl", "0 or more", self.kl >= 0),
            ("margin", "0 or more", self.margin >= 0),
            ("margin", "0 beside a reference: it is SimPO's (reference=false)", not self.margin or not self.reference),
            ("kl", "0 without a reference (reference=false)", not self.kl or self.reference),
        ):
            if not ok:
                raise ValueError(f"{name}={getattr(self, name)}: must be {rule}")

    def check(self, pairs: Sequence[EncodedPair]) -> None:
        """Raise ValueError where these are too few to learn from."""
        train, _ = hold_out(len(pairs), self.validation, self.seed)
        with argument("optim"):
            self.optim.steps(len(train), "pairs")

    def train(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel | None,
        pairs: Sequence[EncodedPair],
        reference_N2: NDArray[np.float32] | None,
        context: TrainingContext,
    ) -> dict[str, Any]:
        """Train a model in place; the caller saves it (`save_trained`).

        Args:
            model: the policy, at the weights of the reference.
            reference: another copy of it, needed where γ > 0.
            pairs: what it learns from.
            reference_N2: of `reference_log_probabilities`; None without a reference.
            context: where it is computed, and keeps its checkpoints.

        Returns:
            Facts: pairs, steps, the last training loss and the best validation loss.
        """
        train, held = (
            PairExamples([pairs[row] for row in rows], None if reference_N2 is None else reference_N2[rows])
            for rows in hold_out(len(pairs), self.validation, self.seed)
        )
        model.eval()  # without dropout, gradients are the same
        compared = reference if self.kl else None

        def module(steps: int) -> OptimizedModule:
            shared: dict[str, Any] = {"beta": self.beta, "steps": steps, "seed": self.seed}
            shared["fused"] = context.trainer.fused_loss
            if self.reference:
                return PreferenceModule(model, compared, self.optim, kl=self.kl, **shared)
            return SimplePreferenceModule(model, self.optim, margin=self.margin, **shared)

        facts = train_on_examples(
            module,
            self.optim,
            context,
            examples=train,
            validation=held,
            seed=self.seed,
            stopping=self._stopping(model, held, context) if len(held) else None,
        )
        return {"pairs": len(train), **facts}

    def _stopping(self, model: PreTrainedModel, held: PairExamples, context: TrainingContext) -> Stopping:
        """When to stop; with a reference, the loss at the start is known."""
        start = log(2)
        if not self.reference:
            trainer = context.trainer
            policy = reference_log_probabilities(
                model.to(trainer.device),  # type: ignore[arg-type]
                held.pairs,
                batch_size=trainer.micro_batch_size,
                precision=trainer.precision,
                fused=trainer.fused_loss,
            )
            lengths = pair_lengths(held[np.arange(len(held))])
            start = float(simple_preference_loss(torch.from_numpy(policy), lengths, beta=self.beta, margin=self.margin))
        return Stopping(self.validate_every, self.patience, start=start)
