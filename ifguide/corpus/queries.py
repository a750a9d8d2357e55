"""Queries: what defines the behaviour. Prompts, which test it, never share a record with them."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from ifguide.checks import check_limit
from ifguide.classifiers.base import TOXICITY
from ifguide.corpus.documents import LabelledText, Pair, Prompt, Query
from ifguide.corpus.padding import pad
from ifguide.corpus.records import read_records, say_unlabelled
from ifguide.corpus.schema import QUERY, Classes
from ifguide.corpus.tokenizers import beginning_of_text, last_tokens


def local_queries(
    *,
    files: str | Sequence[str],
    prompt: str = "prompt",
    continuation: str = "continuation",
    label: str = "label",
    positive: Sequence[Any] = ("toxic", 1, True),
    negative: Sequence[Any] | None = None,
) -> list[Query]:
    """Queries for any behaviour from records with a prompt, a continuation and a label.

    Args:
        files: jsonl or parquet files or globs.
        prompt, continuation, label: names of the fields; an empty prompt is allowed.
        positive: values of the label that show the behaviour.
        negative: values that do not; None: every other one.

    Raises:
        ValueError: no such file; a field that is missing or breaks its rule; a label that is in neither list, or that
            differs from a value of one in case, blanks or type alone; no label that is positive. Records whose label
            is null are left out, and how many is said.
    """
    classes = Classes(positive, negative)
    found = [
        (row.place, *row.read(QUERY, prompt=prompt, continuation=continuation, label=label))
        for row in read_records(files)
    ]
    labelled = [values for values in found if values[3] is not None]
    say_unlabelled(files, label, len(found) - len(labelled))
    toxic = classes.of(label, [(place, value) for place, _, _, value in labelled])
    return [
        Query(before, after, shows, place, str(value))
        for (place, before, after, value), shows in zip(labelled, toxic, strict=True)
    ]


def check_queries(queries: Sequence[Query]) -> None:
    """Raise ValueError unless both classes are there and every continuation has text."""
    if not queries:
        raise ValueError("queries: none has a label; a direction needs queries of both kinds")
    shown = sum(query.toxic for query in queries)
    if shown == 0 or shown == len(queries):
        labels = ", ".join(sorted({query.label for query in queries if query.label}))
        raise ValueError(
            f"queries: all {len(queries)} {'show' if shown else 'do not show'} the behaviour"
            f"{f' (labels: {labels})' if labels else ''}: a direction needs queries of both kinds; see "
            "`positive` and `negative`, or the thresholds"
        )
    if empty := [query.record for query in queries if not query.continuation.strip()]:
        raise ValueError(f"queries: {len(empty)} have an empty continuation, the first is {empty[0]}")


def labels_of(behaviour: str, queries: Sequence[Query]) -> tuple[str, str]:
    """What the two classes of a behaviour are called: by its records, where each has one label that is a word."""
    if behaviour == TOXICITY:
        return "toxic", "non-toxic"
    found = []
    for shows, otherwise in ((True, behaviour), (False, f"not {behaviour}")):
        labels = {query.label for query in queries if query.toxic is shows}
        label = labels.pop() if len(labels) == 1 else ""
        found.append(label if label and not label.isnumeric() and label not in ("True", "False") else otherwise)
    return found[0], found[1]


def halves(queries: Sequence[Query]) -> tuple[list[Query], list[Query]]:
    """Queries in two halves, each with every other continuation of either class; a continuation is in one alone."""
    parts: tuple[list[Query], list[Query]] = ([], [])
    seen: dict[tuple[str, bool], int] = {}
    counts = {True: 0, False: 0}
    for query in queries:
        key = (query.continuation.strip(), query.toxic)
        if key not in seen:
            seen[key], counts[query.toxic] = counts[query.toxic] % 2, counts[query.toxic] + 1
        parts[seen[key]].append(query)
    return parts


def first_half(queries: Sequence[Query]) -> list[Query]:
    """The half that is left where a classifier learns from the other."""
    return halves(queries)[0]


def check_disjoint(queries: Sequence[Query], prompts: Sequence[Prompt]) -> None:
    """Raise ValueError where an evaluation prompt shares its record or its text with a query."""
    records, texts = {query.record for query in queries}, {query.prompt for query in queries if query.prompt.strip()}
    shared = [prompt.record for prompt in prompts if prompt.record in records or prompt.text in texts]
    if shared:
        raise ValueError(
            f"{len(shared)} evaluation prompts are also queries (the first is {shared[0]}); evaluate on other records"
        )


def check_texts_disjoint(texts: Sequence[str], prompts: Sequence[Prompt], name: str) -> None:
    """Raise ValueError where an evaluation prompt is the beginning of a text that something is trained on.

    Args:
        texts: what is trained on.
        prompts: what is evaluated on; an empty one is the beginning of everything, and is not looked for.
        name: the group of the configuration that the texts come from.
    """
    ordered = sorted(texts)
    shared = []
    for prompt in prompts:
        first = bisect_left(ordered, prompt.text)  # whatever begins with the prompt comes right after it
        if prompt.text.strip() and first < len(ordered) and ordered[first].startswith(prompt.text):
            shared.append(prompt.record)
    if shared:
        raise ValueError(
            f"{len(shared)} evaluation prompts are also in the texts of `{name}` (the first is {shared[0]}); "
            "train or evaluate on others"
        )


@dataclass(frozen=True)
class EncodedQuery:
    """Tokens of a query, and which of them belong to the continuation."""

    input_ids: NDArray[np.int64]
    continuation: NDArray[np.bool_]
    toxic: bool


def encode_queries(
    queries: Sequence[Query],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int | None = None,
    config: PreTrainedConfig | None = None,
) -> list[EncodedQuery]:
    """Tokenise prompt and continuation together; the boundary comes from the character offsets.

    A token that ends after the prompt does belongs to the continuation. The sequence starts with what a text begins
    after for the model of this configuration (`beginning_of_text`); a longer one keeps that and its last tokens,
    `max_length` together.
    """
    first = beginning_of_text(tokenizer, config)
    encodings = tokenizer.backend_tokenizer.encode_batch(
        [query.prompt + query.continuation for query in queries], add_special_tokens=False
    )
    encoded = []
    for query, encoding in zip(queries, encodings, strict=True):
        ids = np.array(last_tokens(first, encoding.ids, max_length), dtype=np.int64)
        inside = last_tokens(False, [end > len(query.prompt) for _, end in encoding.offsets], max_length)
        encoded.append(EncodedQuery(ids, np.array(inside, dtype=bool), query.toxic))
    return encoded


def padded_batches(
    encoded: Sequence[EncodedQuery], batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]:
    """Queries of like length together, the longest first.

    Yields:
        Which they are, [B]; their token ids, [B, T]; and what of these is continuation, [B, T].
    """
    order = np.argsort([-len(query.input_ids) for query in encoded], kind="stable")
    for first in range(0, len(encoded), batch_size):
        rows = order[first : first + batch_size]
        ids, _ = pad([encoded[row].input_ids for row in rows])
        inside, _ = pad([encoded[row].continuation for row in rows])
        yield rows, ids.numpy(), inside.numpy()


def labelled_queries(*, queries: Sequence[Query], size: int | None = None) -> list[LabelledText]:
    """The continuations of queries as labelled texts, each once: what is learned from labels then has the direction's
    source.

    Args:
        queries: what they are continuations of.
        size: at most this many.

    Raises:
        ValueError: a size below 1.
    """
    check_limit(size, "size")
    texts: dict[str, LabelledText] = {}
    for query in queries:
        text = query.continuation.strip()
        if text:
            texts.setdefault(text, LabelledText(text, float(query.toxic)))
    return list(texts.values())[:size]


def paired_queries(*, queries: Sequence[Query], seed: int = 0, size: int | None = None) -> list[Pair]:
    """A continuation that lacks the behaviour, preferred to one that shows it, without prompts.

    Queries of both kinds have other prompts, so that neither would be a continuation of the other's. As many pairs as
    there are queries that show it; each has a random one of the others, and none is taken again before all were.

    Args:
        queries: of both kinds.
        seed: of who is paired with whom.
        size: at most this many.

    Raises:
        ValueError: one kind is missing; a size below 1.
    """
    check_limit(size, "size")
    shows, lacks = ([query.continuation for query in queries if query.toxic is toxic] for toxic in (True, False))
    if not shows or not lacks:
        raise ValueError("queries: a pair needs one that shows the behaviour, and one that does not")
    rng, order = Random(seed), list[str]()
    while len(order) < len(shows):
        order += rng.sample(lacks, len(lacks))
    pairs = [Pair("", chosen, rejected) for chosen, rejected in zip(order, shows, strict=False)]
    return [pair for pair in pairs if pair.chosen != pair.rejected][:size]
