"""Scores of fine-tuning records: of their responses' token scores, and by other means."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.corpus.blocks import Split
from ifguide.corpus.fine_tuning import FineTuningRecord
from ifguide.corpus.queries import EncodedQuery, padded_batches

RECORDS_AT_ONCE = 1000


def response_tokens(
    split: Split, tokenizer: PreTrainedTokenizerFast, records: Sequence[FineTuningRecord]
) -> NDArray[np.bool_]:
    """Tokens of responses that have a score, [blocks, T]: neither a block's first token nor the end-of-text token.

    Args:
        split: whose documents are the records (`FineTuningSource`).
        tokenizer: of the split.
        records: all of them, in their order.
    """
    inside = np.zeros(split.shape, dtype=bool)
    flat = inside.ravel()
    numbers = split.documents["record"].tolist()
    for first in range(0, len(numbers), RECORDS_AT_ONCE):
        chosen = numbers[first : first + RECORDS_AT_ONCE]
        texts = [records[number].text for number in chosen]
        encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        for document, (number, encoding) in enumerate(zip(chosen, encodings, strict=True), start=first):
            start, end = split.extent(document)
            border = len(records[number].context)
            marks = [stop > border for _, stop in encoding.offsets][: end - start]
            flat[start : start + len(marks)] = marks
    inside[:, 0] = False
    return inside


def record_scores(
    split: Split, scores_BT: NDArray[np.floating], counted_BT: NDArray[np.bool_], *, records: int, mean: bool
) -> NDArray[np.float64]:
    """Sum, or mean, of the scores of each record's counted tokens, [records]; NaN where none counts.

    The sum is the influence of the whole record; the mean does not grow with its length.

    Args:
        split: whose documents are the records.
        scores_BT: token scores.
        counted_BT: tokens that count (`response_tokens`).
        records: how many there are.
        mean: divide by the number of counted tokens.
    """
    record = split.documents["record"][split.documents_of(np.flatnonzero(counted_BT))]
    sums = np.bincount(record, weights=scores_BT[counted_BT], minlength=records).astype(np.float64)
    counts = np.bincount(record, minlength=records)
    return np.where(counts > 0, sums / (np.maximum(counts, 1) if mean else 1), np.nan)


@torch.no_grad()
def response_states(model: PreTrainedModel, encoded: Sequence[EncodedQuery], *, batch_size: int) -> NDArray[np.float64]:
    """Means of the last layer's states over the tokens of each continuation, [n, hidden]."""
    model.eval()
    states = np.zeros((len(encoded), model.config.hidden_size))
    batches, total = padded_batches(encoded, batch_size), -(-len(encoded) // batch_size)
    for rows, ids, inside in tqdm(batches, desc="States", total=total, leave=False, disable=None):
        given = torch.from_numpy(ids).to(model.device)
        hidden = model(input_ids=given, use_cache=False, output_hidden_states=True).hidden_states[-1].double().cpu()
        counts = np.maximum(inside.sum(1, keepdims=True), 1)
        states[rows] = (hidden.numpy() * inside[..., None]).sum(1) / counts
    return states


def representation_similarity(
    states_NH: NDArray[np.float64], references_RH: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean over references of the cosine of each state with theirs, [N]; a state of 0 has a cosine of 0."""
    states, references = (
        values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        for values in (states_NH, references_RH)
    )
    return np.asarray(states @ references.mean(0))
