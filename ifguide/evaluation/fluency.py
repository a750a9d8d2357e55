"""Perplexity of held-out documents, benign and toxic ones apart."""

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ifguide.corpus.blocks import LABELS, Split
from ifguide.evaluation.intervals import ratio_interval
from ifguide.objectives.language_modeling import token_losses


@torch.no_grad()
def block_losses(model: PreTrainedModel, split: Split, *, batch_size: int) -> NDArray[np.float32]:
    """Loss of every token of a split, [blocks, T]; column 0 is 0."""
    model.eval()
    losses = np.empty(split.shape, dtype=np.float32)
    for first in tqdm(range(0, len(split), batch_size), desc="Perplexity", leave=False, disable=None):
        ids = torch.from_numpy(split.tokens(slice(first, min(first + batch_size, len(split))))).to(model.device)
        batch = token_losses(model(input_ids=ids, use_cache=False).logits, ids)
        losses[first : first + len(ids)] = batch.float().cpu().numpy()
    return losses


def perplexity_metrics(losses_BT: NDArray[np.float32], split: Split) -> dict[str, dict[str, float | int | list[float]]]:
    """Perplexity by the label of the documents: `benign`, `toxic`, `unlabelled`, and `all` of them.

    `all` is for corpora without labels; the headline is `benign`. Intervals resample documents.
    """
    blocks, length = losses_BT.shape
    owner = split.documents_of(np.arange(blocks * length)).reshape(blocks, length)[:, 1:]
    documents = len(split.documents)
    sums: NDArray[np.float64] = np.bincount(
        owner.ravel(), weights=losses_BT[:, 1:].ravel(), minlength=documents
    ).astype(np.float64)
    counts: NDArray[np.float64] = np.bincount(owner.ravel(), minlength=documents).astype(np.float64)
    label = split.documents["label"]
    groups = {"all": np.ones(documents, bool)} | {name or "unlabelled": label == code for name, code in LABELS.items()}
    metrics: dict[str, dict[str, float | int | list[float]]] = {}
    for group, members in groups.items():
        members = members & (counts > 0)
        if members.any():
            interval = ratio_interval(sums[members], counts[members])
            metrics[group] = {
                "perplexity": float(np.exp(sums[members].sum() / counts[members].sum())),
                "perplexity_interval": [float(np.exp(value)) for value in interval],
                "documents": int(members.sum()),
                "tokens": int(counts[members].sum()),
            }
    return metrics
