"""Post-training by direct preference optimisation (DPO; Rafailov et al., 2023; against toxicity: Lee et al., 2024)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ifguide.corpus.pairs import EncodedPair
from ifguide.objectives.preference import preference_loss, response_divergence, response_log_probabilities
from ifguide.training.auxiliary import check_validation
from ifguide.training.data import hold_out, pad
from ifguide.training.fit import Hardware, Stopping, train_on_examples
from ifguide.training.module import OptimizedModule
from ifguide.training.optimization import AdamWCosine


class PairExamples:
    """Rows → the chosen texts and then the rejected ones, as one batch of 2 · rows.

    `input_ids` and `response` [2 · rows, T], and `reference` [rows, 2], where there are reference log-probabilities.
    """

    def __init__(self, pairs: Sequence[EncodedPair], reference_N2: NDArray[np.float32] | None = None) -> None:
        self._pairs, self._reference = pairs, reference_N2

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        pairs = [self._pairs[row] for row in rows]
        ids, _ = pad([pair.input_ids[half] for half in (0, 1) for pair in pairs])
        response, _ = pad([pair.response[half] for half in (0, 1) for pair in pairs])
        batch = {"input_ids": ids, "response": response}
        if self._reference is not None:
            batch["reference"] = torch.from_numpy(self._reference[rows])
        return batch


def pair_log_probabilities(logits_BTV: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """log π of the chosen and of the rejected response of each pair of a batch of `PairExamples`, [N, 2]."""
    return response_log_probabilities(logits_BTV, batch["input_ids"], batch["response"]).view(2, -1).T


@torch.no_grad()
def reference_log_probabilities(
    model: PreTrainedModel, pairs: Sequence[EncodedPair], *, batch_size: int, precision: str = "32-true"
) -> NDArray[np.float32]:
    """log π_ref of both responses of every pair, [N, 2].

    Args:
        model: the reference, on the device that computes.
        pairs: in the order of the result.
        batch_size: pairs at a time.
        precision: of Lightning; under a mixed one the forward pass is cast as it is in training.
    """
    examples, device = PairExamples(pairs), model.device
    dtype = torch.float16 if precision.startswith("16") else torch.bfloat16
    parts = []
    for first in tqdm(range(0, len(pairs), batch_size), desc="Reference", leave=False, disable=None):
        rows = np.arange(first, min(first + batch_size, len(pairs)))
        batch = {name: value.to(device) for name, value in examples[rows].items()}
        with torch.autocast(device.type, dtype, enabled=precision.endswith("mixed")):
            logits = model.eval()(input_ids=batch["input_ids"], use_cache=False).logits
        parts.append(pair_log_probabilities(logits, batch).float().cpu().numpy())
    return np.concatenate(parts)


class PreferenceModule(OptimizedModule):
    """Trains a policy on batches of `PairExamples`.

    Args:
        model: the policy.
        reference: a frozen copy of where it began, for the KL term; None without one.
        beta, kl: β and γ of the loss, see `DPO`.
        optimization, steps, seed: as in `OptimizedModule`.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module | None,
        optimization: AdamWCosine,
        *,
        beta: float,
        kl: float,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__(model, optimization, steps=steps, seed=seed)
        self._beta, self._kl = beta, kl
        self._reference = [] if reference is None else [reference.requires_grad_(False).eval()]  # in no checkpoint

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits = self.model(input_ids=batch["input_ids"], use_cache=False).logits
        loss = preference_loss(pair_log_probabilities(logits, batch), batch["reference"], beta=self._beta)
        for reference in self._reference:
            with torch.no_grad():
                theirs = reference.to(self.device)(input_ids=batch["input_ids"], use_cache=False).logits
            # the mean over both halves of the batch is half the sum of KL_chosen and KL_rejected
            loss = loss + 2 * self._kl * response_divergence(logits.float(), theirs.float(), batch["response"])
        return loss


@dataclass(frozen=True)
class DPO:
    """Direct preference optimisation of a trained model: no dropout, the weights of the best validation loss.

    The loss is −log σ(β·margin) + γ·(KL_chosen + KL_rejected), the KL(reference ‖ policy) averaged over positions. At
    the reference's own weights it is log 2; they are kept where no validation is below that.

    Args:
        optim: how it is optimised; it counts pairs where it speaks of blocks.
        beta: β.
        kl: γ; 0 needs no second forward pass.
        max_length: tokens of prompt and response together; longer ones are cut, see `encode_pairs`.
        validation: share of the pairs held out.
        validate_every: optimiser steps between validations; the last step is validated too.
        patience: validations without improvement after which training stops.
        seed: of the data order and of what is held out.
    """

    optim: AdamWCosine
    beta: float = 0.1
    kl: float = 0.0
    max_length: int = 128
    validation: float = 0.1
    validate_every: int = 5
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_validation(self.validation, "post_training")
        if self.beta <= 0 or self.kl < 0:
            raise ValueError(f"post_training: beta={self.beta} must be above 0, kl={self.kl} 0 or more")
        for name in ("max_length", "validate_every", "patience"):
            if getattr(self, name) < (2 if name == "max_length" else 1):
                raise ValueError(f"post_training.{name}={getattr(self, name)}: too small")

    def check(self, pairs: Sequence[EncodedPair]) -> None:
        """Raise ValueError where these are too few to learn from."""
        train, _ = hold_out(len(pairs), self.validation, self.seed)
        self.optim.steps(len(train), "pairs", "post_training.optim")

    def train(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel | None,
        pairs: Sequence[EncodedPair],
        reference_N2: NDArray[np.float32],
        *,
        hardware: Hardware,
        directory: Path,
        logger: Logger | None = None,
        callbacks: Sequence[pl.Callback] = (),
    ) -> dict[str, Any]:
        """Train a model in place; the caller saves it and removes the checkpoints.

        Args:
            model: the policy, at the weights of the reference.
            reference: another copy of it, needed where γ > 0.
            pairs: what it learns from.
            reference_N2: of `reference_log_probabilities`.
            hardware, directory, logger, callbacks: as in `ifguide.training.fit.train`.

        Returns:
            Facts: pairs, steps, the last training loss and the best validation loss.
        """
        train, held = (
            PairExamples([pairs[row] for row in rows], reference_N2[rows])
            for rows in hold_out(len(pairs), self.validation, self.seed)
        )
        model.eval()  # without dropout, gradients are the same
        facts = train_on_examples(
            lambda steps: PreferenceModule(
                model,
                reference if self.kl else None,
                self.optim,
                beta=self.beta,
                kl=self.kl,
                steps=steps,
                seed=self.seed,
            ),
            self.optim,
            hardware,
            examples=train,
            validation=held,
            seed=self.seed,
            directory=directory,
            logger=logger,
            callbacks=callbacks,
            stopping=Stopping(self.validate_every, self.patience, start=log(2)) if len(held) else None,
        )
        return {"pairs": len(train), **facts}
