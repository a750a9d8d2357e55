"""Perplexity of held-out documents, benign and toxic ones apart; variety and likelihood of generations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.corpus.blocks import LABELS, Split
from ifguide.corpus.documents import Query
from ifguide.corpus.queries import encode_queries
from ifguide.evaluation.likelihood import continuation_likelihoods
from ifguide.evaluation.task import members_of
from ifguide.objectives.language_modeling import token_losses
from ifguide.opening import context_length
from ifguide.processes import ALONE, Processes, joined
from ifguide.statistics import mean_interval, ratio_interval
from ifguide.workspace import open_archive

Metrics = dict[str, dict[str, float | int | list[float]]]  # subset → metric
LOSSES_FILE = "losses.npz"
ORDERS = (1, 2, 3)  # of the n-grams that are counted


@torch.no_grad()
def block_losses(
    model: PreTrainedModel, split: Split, *, batch_size: int, never: Sequence[int] = (), processes: Processes = ALONE
) -> NDArray[np.float32]:
    """Loss of every token of a split, [blocks, T]; column 0 is 0.

    `never` are tokens that are read and never written: no other one's probability has a share of theirs, and their own
    loss is 0.
    """
    model.eval()
    losses = np.empty(split.shape, dtype=np.float32)
    mine = processes.share(
        [np.arange(first, min(first + batch_size, len(split))) for first in range(0, len(split), batch_size)]
    )
    for rows in tqdm(mine, desc="Perplexity", leave=False, disable=processes.no_bar):
        ids = torch.from_numpy(split.tokens(rows)).to(model.device)
        logits = model(input_ids=ids, use_cache=False).logits
        if never:
            logits[..., list(never)] = -torch.inf
        batch = token_losses(logits, ids)
        for token in never:
            batch = batch.masked_fill(ids == token, 0)
        losses[rows] = batch.float().cpu().numpy()
    processes.fill(joined(mine), losses)
    return losses


@dataclass(frozen=True)
class UnitLosses:
    """Losses of the units of an evaluation, documents or a prompt's continuations: perplexities are paired by them.

    Attributes:
        losses: Σ −log p(token) of each unit, in nats.
        tokens: how many tokens that sum is over.
        source, record, label: of each document; none of continuations.
    """

    losses: NDArray[np.float64]
    tokens: NDArray[np.float64]
    source: NDArray[np.int64] | None = None
    record: NDArray[np.int64] | None = None
    label: NDArray[np.int64] | None = None

    def save(self, folder: Path) -> None:
        np.savez(folder / LOSSES_FILE, **{key: value for key, value in vars(self).items() if value is not None})

    @staticmethod
    def open(folder: Path) -> "UnitLosses | None":
        """What was saved in a folder; None where nothing was, as in artifacts of earlier versions."""
        if not (folder / LOSSES_FILE).is_file():
            return None
        found = open_archive(folder / LOSSES_FILE, "losses", "tokens")
        return UnitLosses(**{one.name: found.get(one.name) for one in fields(UnitLosses)})  # type: ignore[arg-type]


def document_losses(losses_BT: NDArray[np.float32], split: Split, *, never: Sequence[int] = ()) -> UnitLosses:
    """Losses of every document of a split, as far as it lies in its blocks; `never` as in `block_losses`."""
    blocks, length = losses_BT.shape
    owner = split.documents_of(np.arange(blocks * length)).reshape(blocks, length)[:, 1:].ravel()
    documents = len(split.documents)
    sums = np.bincount(owner, weights=losses_BT[:, 1:].ravel(), minlength=documents).astype(np.float64)
    if never:
        owner = owner[~np.isin(split.tokens(slice(0, blocks))[:, 1:].ravel(), never)]
    counts = np.bincount(owner, minlength=documents).astype(np.float64)
    source, record, label = (split.documents[name].astype(np.int64) for name in ("source", "record", "label"))
    return UnitLosses(sums, counts, source, record, label)


def perplexity_metrics(found: UnitLosses) -> Metrics:
    """Perplexity by the label of the documents: `benign`, `toxic`, `unlabelled`, and `all` of them.

    `all` is for corpora without labels; the headline is `benign`. Intervals resample documents.
    """
    sums, counts = found.losses, found.tokens
    labels = np.full(len(sums), LABELS[None]) if found.label is None else found.label
    groups = {"all": np.ones(len(sums), bool)} | {name or "unlabelled": labels == code for name, code in LABELS.items()}
    metrics: Metrics = {}
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


def distinct_metrics(continuations: Sequence[Sequence[str]], subsets: Sequence[str]) -> Metrics:
    """Variety of generations (distinct-n of Li et al., 2016, over the continuations of a prompt).

    Args:
        continuations: texts of each prompt.
        subsets: subset of each prompt.

    Returns:
        subset → `distinct_<n>` with its interval: distinct n-grams of words (between white space, in lower case) as a
        share of all n-grams in the continuations of a prompt, mean over the prompts that have one. Where none has
        one, the metric is absent.
    """
    shares = {order: np.array([_distinct(texts, order) for texts in continuations]) for order in ORDERS}
    metrics: Metrics = {}
    for subset, members in members_of(subsets).items():
        metrics[subset] = {}
        for order, values in shares.items():
            known = values[members & ~np.isnan(values)]
            if len(known):
                metrics[subset][f"distinct_{order}"] = float(known.mean())
                metrics[subset][f"distinct_{order}_interval"] = mean_interval(known)
    return metrics


def generation_perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    continuations: Sequence[Sequence[str]],
    subsets: Sequence[str],
    *,
    batch_size: int,
    processes: Processes = ALONE,
) -> tuple[Metrics, UnitLosses]:
    """Perplexity of continuations, given their prompts, under another model than the one that wrote them.

    All tokens of the continuations of a subset count alike: exp(Σ losses / Σ tokens), in the reference model's own
    tokens. That is not the mean of the perplexities of single continuations, which a few degenerate ones decide.

    Args:
        model, tokenizer: the reference model and its tokenizer.
        prompts: P texts.
        continuations: texts of each prompt.
        subsets: subset of each prompt.
        batch_size: continuations at a time.
        processes: among which batches are shared.

    Returns:
        subset → `generation_perplexity` with its interval (bootstrap over prompts), absent where nothing was written;
        and the losses of each prompt's continuations.
    """
    pairs = [
        Query(prompt, text, False, "") for prompt, texts in zip(prompts, continuations, strict=True) for text in texts
    ]
    encoded = encode_queries(pairs, tokenizer, context_length(model.config), model.config)
    found = continuation_likelihoods(
        model, encoded, batch_size=batch_size, description="Reference model", processes=processes
    )
    prompt = np.repeat(np.arange(len(prompts)), [len(texts) for texts in continuations])
    losses = np.bincount(prompt, weights=found.losses, minlength=len(prompts)).astype(np.float64)
    tokens = np.bincount(prompt, weights=found.tokens, minlength=len(prompts)).astype(np.float64)
    metrics: Metrics = {}
    for subset, members in members_of(subsets).items():
        members = members & (tokens > 0)
        if members.any():
            interval = ratio_interval(losses[members], tokens[members])
            metrics[subset] = {
                "generation_perplexity": float(np.exp(losses[members].sum() / tokens[members].sum())),
                "generation_perplexity_interval": [float(np.exp(value)) for value in interval],
            }
    return metrics, UnitLosses(losses, tokens)


def _distinct(texts: Sequence[str], order: int) -> float:
    grams = [gram for text in texts for gram in _grams(text.lower().split(), order)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def _grams(words: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[first:] for first in range(order)), strict=False)
