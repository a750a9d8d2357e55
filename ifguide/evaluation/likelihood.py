"""How likely a model finds given continuations of given prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ifguide.corpus.queries import EncodedQuery, padded_batches
from ifguide.objectives.language_modeling import token_losses
from ifguide.processes import ALONE, Processes, joined


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
    model: PreTrainedModel,
    encoded: Sequence[EncodedQuery],
    *,
    batch_size: int,
    description: str,
    processes: Processes = ALONE,
) -> Likelihoods:
    """Likelihoods of continuations; one without a token has a loss of 0, and is `greedy`.

    Continuations of like length are run together and padded on the right, which a causal model never looks at.
    """
    model.eval()
    count = len(encoded)
    losses, tokens = np.zeros(count), np.array([int(query.continuation.sum()) for query in encoded], dtype=np.int64)
    greedy, last = np.ones(count, bool), np.ones(count, bool)
    batches = islice(padded_batches(encoded, batch_size), processes.rank, None, processes.count)
    total, mine = len(processes.share(range(-(-count // batch_size)))), []
    for rows, ids, inside in tqdm(batches, desc=description, total=total, leave=False, disable=processes.no_bar):
        mine.append(rows)
        ids_BT, inside_BT = torch.from_numpy(ids).to(model.device), torch.from_numpy(inside).to(model.device)
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        losses[rows] = (token_losses(logits_BTV, ids_BT) * inside_BT).double().sum(1).cpu().numpy()
        wrong = np.zeros_like(inside)
        wrong[:, 1:] = (logits_BTV[:, :-1].argmax(-1) != ids_BT[:, 1:]).cpu().numpy()
        wrong &= inside
        greedy[rows] = ~wrong.any(1)
        last[rows] = ~wrong[np.arange(len(rows)), inside.shape[1] - 1 - inside[:, ::-1].argmax(1)]
    processes.fill(joined(mine), losses, greedy, last)
    return Likelihoods(losses, tokens, greedy, last)
