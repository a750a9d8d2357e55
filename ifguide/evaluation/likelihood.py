"""How likely a model finds given continuations of given prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ifguide.corpus.queries import EncodedQuery
from ifguide.objectives.language_modeling import token_losses


@dataclass(frozen=True)
class Likelihoods:
    """One entry for each of n continuations.

    Attributes:
        losses: Σ −log p(token | everything before it) over the continuation, in nats.
        tokens: length of the continuation.
        greedy: every token of it is the model's most likely one, so greedy decoding would write just this.
        last_greedy: its last token is the most likely one, given all before it.
    """

    losses: NDArray[np.float64]
    tokens: NDArray[np.int64]
    greedy: NDArray[np.bool_]
    last_greedy: NDArray[np.bool_]


@torch.no_grad()
def continuation_likelihoods(
    model: PreTrainedModel, encoded: Sequence[EncodedQuery], *, batch_size: int, description: str
) -> Likelihoods:
    """Likelihoods of continuations; one without a token has a loss of 0, and is `greedy`.

    Continuations of like length are run together and padded on the right, which a causal model never looks at.
    """
    model.eval()
    count = len(encoded)
    losses, tokens = np.zeros(count), np.array([int(query.continuation.sum()) for query in encoded], dtype=np.int64)
    greedy, last = np.ones(count, bool), np.ones(count, bool)
    order = np.argsort([-len(query.input_ids) for query in encoded], kind="stable")
    for first in tqdm(range(0, count, batch_size), desc=description, leave=False, disable=None):
        rows = order[first : first + batch_size]
        width = len(encoded[rows[0]].input_ids)
        ids, inside = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), bool)
        for place, row in enumerate(rows):
            length = len(encoded[row].input_ids)
            ids[place, :length], inside[place, :length] = encoded[row].input_ids, encoded[row].continuation
        ids_BT, inside_BT = torch.from_numpy(ids).to(model.device), torch.from_numpy(inside).to(model.device)
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        losses[rows] = (token_losses(logits_BTV, ids_BT) * inside_BT).double().sum(1).cpu().numpy()
        wrong = np.zeros_like(inside)
        wrong[:, 1:] = (logits_BTV[:, :-1].argmax(-1) != ids_BT[:, 1:]).cpu().numpy()
        wrong &= inside
        greedy[rows] = ~wrong.any(1)
        last[rows] = ~wrong[np.arange(len(rows)), width - 1 - inside[:, ::-1].argmax(1)]
    return Likelihoods(losses, tokens, greedy, last)
