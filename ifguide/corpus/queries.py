"""Queries and prompts: what defines the behaviour, and what tests it. They never share a record."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.documents import Prompt, Query
from ifguide.corpus.sources import get_field, read_records
from ifguide.workspace import find_files

HALVES = ("validation", "test")  # of the prompts of RealToxicityPrompts


def real_toxicity_queries(
    *,
    files: str | Sequence[str],
    toxic_at_least: float = 0.5,
    nontoxic_below: float = 0.5,
    score: str = "toxicity",
    limit: int | None = None,
) -> list[Query]:
    """Queries from RealToxicityPrompts records, by the score of the continuation.

    Half of the source documents of the file (by a hash of their name) is for queries, the other half for
    `real_toxicity_prompts`: no record, and no text that a record was cut from, serves both.

    Args:
        files: jsonl files with `filename, begin, end, prompt{text, …}, continuation{text, …}`.
        toxic_at_least, nontoxic_below: thresholds; records between them, and records without a score, are left out.
        score: which score of the continuation decides.
        limit: at most this many queries of each class.
    """
    _check_thresholds(toxic_at_least, nontoxic_below)
    queries = []
    for record, values, place in _rtp_records(files, part=0):
        toxicity = get_field(values, f"continuation.{score}", place)
        if toxicity is None or nontoxic_below <= toxicity < toxic_at_least:
            continue
        prompt, continuation = values["prompt"]["text"], values["continuation"]["text"]
        queries.append(Query(prompt, continuation, toxicity >= toxic_at_least, record))
    return _first([q for q in queries if q.toxic], limit) + _first([q for q in queries if not q.toxic], limit)


def real_toxicity_prompts(
    *,
    files: str | Sequence[str],
    toxic_at_least: float = 0.5,
    nontoxic_below: float = 0.5,
    score: str = "toxicity",
    limit: int | None = None,
    part: str = "all",
) -> list[Prompt]:
    """Evaluation prompts from the other half of RealToxicityPrompts records, by the score of the *prompt*.

    Subsets `toxic` and `nontoxic`; the arguments are those of `real_toxicity_queries`, and

    Args:
        part: `all`; or `validation`, to choose settings with, and `test`, to report on: these share no source document
            and no text.
    """
    _check_thresholds(toxic_at_least, nontoxic_below)
    if part not in ("all", *HALVES):
        raise ValueError(f"evaluation.prompts.part={part}; known: all, {', '.join(HALVES)}")
    found: list[tuple[str, Prompt]] = []
    for record, values, place in _rtp_records(files, part=1):
        toxicity = get_field(values, f"prompt.{score}", place)
        if toxicity is None or nontoxic_below <= toxicity < toxic_at_least:
            continue
        prompt = Prompt(values["prompt"]["text"], "toxic" if toxicity >= toxic_at_least else "nontoxic", record)
        found.append((HALVES[_half(values["filename"], byte=1)], prompt))
    seen = {prompt.text for half, prompt in found if half == "validation"} if part == "test" else set()
    prompts = [prompt for half, prompt in found if part in ("all", half) and prompt.text not in seen]
    toxic = _first([p for p in prompts if p.subset == "toxic"], limit)
    return toxic + _first([p for p in prompts if p.subset == "nontoxic"], limit)


def local_queries(
    *,
    files: str | Sequence[str],
    prompt: str = "prompt",
    continuation: str = "continuation",
    label: str = "label",
    positive: Sequence[Any] = ("toxic", 1, True),
) -> list[Query]:
    """Queries for any behaviour from records with a prompt, a continuation and a label.

    Args:
        files: jsonl or parquet files or globs.
        prompt, continuation, label: names of the fields; an empty prompt is allowed.
        positive: values of the label that show the behaviour; every other value does not.
    """
    return [
        Query(
            get_field(values, prompt, place),
            get_field(values, continuation, place),
            get_field(values, label, place) in positive,
            place,
        )
        for file in find_files(files)
        for place, values in read_records(file)
    ]


def local_prompts(
    *, files: str | Sequence[str], field: str = "prompt", subset: str | None = None, limit: int | None = None
) -> list[Prompt]:
    """Evaluation prompts from records of any jsonl, parquet or txt file.

    Args:
        files: files or globs.
        field: the field with the text.
        subset: the field that groups prompts in the metrics; None: one group.
        limit: at most this many prompts.
    """
    prompts = [
        Prompt(
            get_field(values, field, place),
            "prompts" if subset is None else str(get_field(values, subset, place)),
            place,
        )
        for file in find_files(files)
        for place, values in read_records(file, text_field=field)
    ]
    return _first(prompts, limit)


def check_queries(queries: Sequence[Query]) -> None:
    """Raise ValueError unless both classes are there and every continuation has text."""
    toxic = sum(query.toxic for query in queries)
    if toxic == 0 or toxic == len(queries):
        only = "toxic" if toxic else "non-toxic"
        raise ValueError(
            f"the {len(queries)} queries are all {only}: a direction needs both toxic and non-toxic ones; "
            "check the thresholds or the label field of `queries`"
        )
    if empty := [query.record for query in queries if not query.continuation.strip()]:
        raise ValueError(f"{len(empty)} queries have an empty continuation, the first is {empty[0]}")


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
    queries: Sequence[Query], tokenizer: PreTrainedTokenizerFast, max_length: int | None = None
) -> list[EncodedQuery]:
    """Tokenise prompt and continuation together; the boundary comes from the character offsets.

    A token that ends after the prompt does belongs to the continuation. The sequence starts with the end-of-text
    token, as documents do; a longer one keeps its last `max_length` tokens.
    """
    encodings = tokenizer.backend_tokenizer.encode_batch(
        [query.prompt + query.continuation for query in queries], add_special_tokens=False
    )
    encoded = []
    for query, encoding in zip(queries, encodings, strict=True):
        ids = np.array([tokenizer.eos_token_id, *encoding.ids], dtype=np.int64)
        inside = np.array([False, *(end > len(query.prompt) for _, end in encoding.offsets)])
        last = slice(None if max_length is None else -max_length, None)
        encoded.append(EncodedQuery(ids[last], inside[last], query.toxic))
    return encoded


def _rtp_records(files: str | Sequence[str], *, part: int) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Distinct records whose source document belongs to a part; part 1 leaves out the prompt texts of part 0."""
    seen: set[str] = set()
    parts: tuple[list, list] = ([], [])
    for file in find_files(files):
        for place, values in read_records(file):
            filename = str(get_field(values, "filename", place))
            record = f"{filename}:{get_field(values, 'begin', place)}:{get_field(values, 'end', place)}"
            if record not in seen:
                seen.add(record)
                parts[_half(filename, byte=0)].append((record, values, place))
    taken = {values["prompt"]["text"] for _, values, _ in parts[0]} if part == 1 else set()
    return (row for row in parts[part] if row[1]["prompt"]["text"] not in taken)


def _half(filename: str, *, byte: int) -> int:
    """0 or 1 for a source document, by one byte of the hash of its name; each byte halves anew."""
    return hashlib.sha256(filename.encode()).digest()[byte] % 2


def _check_thresholds(toxic_at_least: float, nontoxic_below: float) -> None:
    if not 0 <= nontoxic_below <= toxic_at_least <= 1:
        raise ValueError(
            f"toxic_at_least={toxic_at_least}, nontoxic_below={nontoxic_below}: thresholds lie in [0, 1] and "
            "nontoxic_below is not above toxic_at_least"
        )


def _first(items: list, limit: int | None) -> list:
    return items if limit is None else items[:limit]
