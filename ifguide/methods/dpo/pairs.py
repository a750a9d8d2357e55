"""Pairs as batches, and what the reference model says of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ifguide.corpus.padding import pad
from ifguide.corpus.pairs import EncodedPair
from ifguide.methods.dpo.loss import response_log_probabilities
from ifguide.objectives.linear_head import LinearLogits
from ifguide.processes import ALONE, Processes, joined
from ifguide.training.predictions import predictions

# N pairs, T tokens, V vocabulary


class PairExamples:
    """Rows → the chosen texts and then the rejected ones, as one batch of 2 · rows.

    `input_ids` and `response` [2 · rows, T], and `reference` [rows, 2], where there are reference log-probabilities.
    """

    def __init__(self, pairs: Sequence[EncodedPair], reference_N2: NDArray[np.float32] | None = None) -> None:
        self.pairs, self._reference = pairs, reference_N2

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        pairs = [self.pairs[row] for row in rows]
        ids, _ = pad([pair.input_ids[half] for half in (0, 1) for pair in pairs])
        response, _ = pad([pair.response[half] for half in (0, 1) for pair in pairs])
        batch = {"input_ids": ids, "response": response}
        if self._reference is not None:
            batch["reference"] = torch.from_numpy(self._reference[rows])
        return batch


def pair_log_probabilities(logits_BTV: Tensor | LinearLogits, batch: Mapping[str, Tensor]) -> Tensor:
    """log π of the chosen and of the rejected response of each pair of a batch of `PairExamples`, [N, 2]."""
    return response_log_probabilities(logits_BTV, batch["input_ids"], batch["response"]).view(2, -1).T


def pair_lengths(batch: Mapping[str, Tensor]) -> Tensor:
    """Tokens of both responses of each pair of a batch of `PairExamples`, [N, 2]."""
    return batch["response"][:, 1:].sum(1).view(2, -1).T


@torch.no_grad()
def reference_log_probabilities(
    model: PreTrainedModel,
    pairs: Sequence[EncodedPair],
    *,
    batch_size: int,
    precision: str = "32-true",
    fused: bool | None = None,
    processes: Processes = ALONE,
) -> NDArray[np.float32]:
    """log π_ref of both responses of every pair, [N, 2].

    Args:
        model: the reference, on the device that computes.
        pairs: in the order of the result.
        batch_size: pairs at a time.
        precision: of Lightning; the forward pass is cast as it is in training, under a true one the model too.
        fused: as in `predictions`.
        processes: among which batches are shared.
    """
    dtype = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}.get(precision.partition("-")[0])
    if dtype is not None and precision.endswith("true"):  # what Lightning makes of the policy
        model = model.to(dtype)  # type: ignore[arg-type]
    examples, device, predict = PairExamples(pairs), model.device, predictions(model.eval(), fused=fused)
    found, mine = np.zeros((len(pairs), 2), np.float32), []
    firsts = processes.share(range(0, len(pairs), batch_size))
    for first in tqdm(firsts, desc="Reference", leave=False, disable=processes.no_bar):
        rows = np.arange(first, min(first + batch_size, len(pairs)))
        batch = {name: value.to(device) for name, value in examples[rows].items()}
        with torch.autocast(device.type, dtype, enabled=precision.endswith("mixed")):
            log_probabilities = pair_log_probabilities(predict(batch["input_ids"]), batch)
        found[rows] = log_probabilities.float().cpu().numpy()
        mine.append(rows)
    processes.fill(joined(mine), found)
    return found
