"""Rivals of influence scores: other ways to tell which training tokens are toxic. Each gives [blocks, T] scores.

A list of words is in `ifguide.evaluation.attribution`, losses are in `ifguide.evaluation.fluency`, and what counts of
tokens say is in `ifguide.evaluation.lexical`.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.classifiers.base import TOXICITY, Classifier
from ifguide.corpus.blocks import Split
from ifguide.corpus.documents import Query
from ifguide.corpus.padding import pad
from ifguide.corpus.queries import EncodedQuery, encode_queries
from ifguide.corpus.tokenizers import token_texts, vocabulary_size
from ifguide.corpus.words import word_log_odds
from ifguide.evaluation.attribution import word_list_scores
from ifguide.evaluation.fluency import block_losses
from ifguide.evaluation.lexical import bm25_weights, importance_scores, inverse_document_frequency
from ifguide.objectives.language_modeling import token_losses

WORD_LIST, BM25, IDF = "word list: log-odds between queries", "BM25", "inverse document frequency"
DSIR, DSIR_CORPUS = "DSIR-style, toxic against other queries", "DSIR-style, toxic queries against the corpus"
LEXICAL = (WORD_LIST, BM25, DSIR, DSIR_CORPUS, IDF)


def token_baselines(
    model: PreTrainedModel,
    split: Split,
    tokenizer: PreTrainedTokenizerFast,
    queries: Sequence[Query],
    classifier: Classifier,
    *,
    batch_size: int,
) -> dict[str, Callable[[], NDArray[np.float32]]]:
    """Name → what computes the scores, for every rival here and those that are elsewhere.

    Args:
        model: the proxy.
        split, tokenizer: of the corpus.
        queries: of the behaviour.
        classifier: of texts.
        batch_size: blocks at a time.
    """
    encoded = encode_queries(queries, tokenizer, split.block_length)
    return {
        **lexical_scores(split, tokenizer, queries),
        "classifier on ±8 tokens": lambda: classifier_window_scores(split, tokenizer, classifier),
        "anti-expert less expert": lambda: expert_log_ratio_scores(model, split, encoded, batch_size=batch_size),
        "loss": lambda: block_losses(model, split, batch_size=batch_size),
        "gradient norm": lambda: gradient_norm_scores(model, split, batch_size=batch_size),
    }


def lexical_scores(
    split: Split, tokenizer: PreTrainedTokenizerFast, queries: Sequence[Query]
) -> dict[str, Callable[[], NDArray[np.float32]]]:
    """Name → what computes the scores, for the rivals that count words or tokens and need no model (`LEXICAL`)."""
    shows, lacks = continuations(split, tokenizer, queries)

    def of_types(weights_V: NDArray[np.float64]) -> NDArray[np.float32]:
        return without_first(weights_V.astype(np.float32)[split.tokens(slice(0, None))])

    def importance(raw: Callable[[], Sequence[NDArray[np.int64]]]) -> NDArray[np.float32]:
        return without_first(importance_scores(split.tokens(slice(0, None)), shows, raw()))

    return {
        WORD_LIST: lambda: word_list_scores(split, tokenizer, word_log_odds(queries)),
        BM25: lambda: of_types(bm25_of_types(split, tokenizer, queries)),
        DSIR: lambda: importance(lambda: lacks),
        DSIR_CORPUS: lambda: importance(lambda: [split.tokens(slice(0, None))]),
        IDF: lambda: of_types(idf_of_types(split, tokenizer)),
    }


def continuations(
    split: Split, tokenizer: PreTrainedTokenizerFast, queries: Sequence[Query]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Token ids of the continuations of toxic queries, and of the others."""
    encoded = encode_queries(queries, tokenizer, split.block_length)
    shows, lacks = ([q.input_ids[q.continuation] for q in encoded if q.toxic is toxic] for toxic in (True, False))
    return shows, lacks


def idf_of_types(split: Split, tokenizer: PreTrainedTokenizerFast) -> NDArray[np.float64]:
    """Inverse document frequency of every token id in a corpus, [V]."""
    ids = split.tokens(slice(0, None))
    documents = split.documents_of(np.arange(ids.size)).reshape(ids.shape)
    return inverse_document_frequency(ids, documents, vocabulary_size(tokenizer))


def bm25_of_types(split: Split, tokenizer: PreTrainedTokenizerFast, queries: Sequence[Query]) -> NDArray[np.float64]:
    """BM25 of every token id in toxic queries less that in the others (`bm25_weights`), [V]."""
    return bm25_weights(idf_of_types(split, tokenizer), *continuations(split, tokenizer, queries))


def without_first(scores_BT: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores with a column 0 of 0, where nothing is predicted."""
    scores_BT[:, 0] = 0
    return scores_BT


def classifier_window_scores(
    split: Split, tokenizer: PreTrainedTokenizerFast, classifier: Classifier, *, window: int = 8, stride: int = 4
) -> NDArray[np.float32]:
    """Probability that the text of the ±`window` tokens around is toxic, taken at every `stride`-th token."""
    pieces = np.array(token_texts(tokenizer), dtype=object)
    length = split.block_length
    centres = np.arange(stride // 2, length, stride)
    scores = np.zeros(split.shape, dtype=np.float32)
    nearest = np.minimum(np.arange(length) // stride, len(centres) - 1)
    for first in tqdm(range(0, len(split), 256), desc="Windows", leave=False, disable=None):
        blocks = pieces[split.tokens(slice(first, min(first + 256, len(split))))]
        texts = ["".join(row[max(0, c - window) : c + window + 1]) for row in blocks for c in centres]
        probabilities = classifier(texts)[TOXICITY].reshape(len(blocks), len(centres))
        scores[first : first + len(blocks)] = probabilities[:, nearest]
    scores[:, 0] = 0
    return scores


@torch.no_grad()
def gradient_norm_scores(model: PreTrainedModel, split: Split, *, batch_size: int) -> NDArray[np.float32]:
    """Norm of the gradient of each token's loss with respect to its logits' hidden state, ‖Uᵀ(p − 1ₓ)‖."""
    model.eval()
    weight = model.get_output_embeddings().weight
    scores = np.zeros(split.shape, dtype=np.float32)
    for first in tqdm(range(0, len(split), batch_size), desc="Gradient norms", leave=False, disable=None):
        ids = torch.from_numpy(split.tokens(slice(first, min(first + batch_size, len(split))))).to(model.device)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        gradient = logits.softmax(-1) @ weight - weight[ids[:, 1:]]
        scores[first : first + len(ids), 1:] = gradient.norm(dim=-1).float().cpu().numpy()
    return scores


def expert_log_ratio_scores(
    model: PreTrainedModel,
    split: Split,
    queries: Sequence[EncodedQuery],
    *,
    batch_size: int,
    epochs: int = 1,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> NDArray[np.float32]:
    """log p(token) of an anti-expert less that of an expert: copies of the model fine-tuned on toxic and on non-toxic
    queries (continuations count, prompts do not)."""
    losses = {}
    for toxic in (True, False):
        torch.manual_seed(seed)
        expert = copy.deepcopy(model).train()
        chosen = [query for query in queries if query.toxic == toxic]
        optimizer = torch.optim.AdamW(expert.parameters(), lr=learning_rate)
        for epoch in range(epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(chosen))
            for first in range(0, len(order), batch_size):
                batch = [chosen[index] for index in order[first : first + batch_size]]
                ids = pad([query.input_ids for query in batch])[0].to(model.device)
                counted = pad([query.continuation for query in batch])[0].to(model.device, torch.float32)
                loss = token_losses(expert(input_ids=ids, use_cache=False).logits, ids)
                ((loss * counted).sum() / counted.sum()).backward()
                torch.nn.utils.clip_grad_norm_(expert.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        losses[toxic] = block_losses(expert, split, batch_size=batch_size)
    return losses[False] - losses[True]
