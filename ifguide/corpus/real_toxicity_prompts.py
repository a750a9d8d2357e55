"""RealToxicityPrompts (Gehman et al., 2020): queries from one half of its source documents, prompts from the other."""

import hashlib
from collections.abc import Iterator, Sequence

from ifguide.checks import check_limit
from ifguide.corpus.documents import Prompt, Query
from ifguide.corpus.records import Record, read_records, say_unlabelled
from ifguide.corpus.schema import SCORE, SCORED_PROMPT

HALVES = ("validation", "test")  # of the prompts
Named = tuple[str, str, str, Record]  # name, prompt, continuation, record
TEXTS = {"prompt": "prompt.text", "continuation": "continuation.text"}


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
        toxic_at_least, nontoxic_below: thresholds; records between them are left out, and records without a score,
            of which the number is said.
        score: which score of the continuation decides.
        limit: at most this many queries of each class.
    """
    _check_thresholds(toxic_at_least, nontoxic_below)
    check_limit(limit)
    queries, unlabelled = [], 0
    for record, prompt, continuation, row in _records(files, part=0):
        (toxicity,) = row.read(SCORE, score=f"continuation.{score}")
        unlabelled += toxicity is None
        if toxicity is None or nontoxic_below <= toxicity < toxic_at_least:
            continue
        queries.append(Query(prompt, continuation, toxicity >= toxic_at_least, record))
    say_unlabelled(files, f"continuation.{score}", unlabelled)
    return [q for q in queries if q.toxic][:limit] + [q for q in queries if not q.toxic][:limit]


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
    check_limit(limit)
    if part not in ("all", *HALVES):
        raise ValueError(f"part={part}; known: all, {', '.join(HALVES)}")
    found: list[tuple[str, Prompt]] = []
    unlabelled = 0
    for record, text, _, row in _records(files, part=1):
        (toxicity,) = row.read(SCORE, score=f"prompt.{score}")
        unlabelled += toxicity is None
        if toxicity is None or nontoxic_below <= toxicity < toxic_at_least:
            continue
        prompt = Prompt(text, "toxic" if toxicity >= toxic_at_least else "nontoxic", record)
        found.append((HALVES[_half(str(row.get("filename")), byte=1)], prompt))
    say_unlabelled(files, f"prompt.{score}", unlabelled)
    seen = {prompt.text for half, prompt in found if half == "validation"} if part == "test" else set()
    prompts = [prompt for half, prompt in found if part in ("all", half) and prompt.text not in seen]
    return [prompt for subset in ("toxic", "nontoxic") for prompt in [p for p in prompts if p.subset == subset][:limit]]


def _records(files: str | Sequence[str], *, part: int) -> Iterator[Named]:
    """Distinct records whose source document belongs to a part; part 1 has no prompt's text of part 0."""
    seen: set[str] = set()
    parts: tuple[list[Named], list[Named]] = ([], [])
    for row in read_records(files):
        filename = str(row.get("filename"))
        record = f"{filename}:{row.get('begin')}:{row.get('end')}"
        prompt, continuation = row.read(SCORED_PROMPT, **TEXTS)
        if record not in seen:
            seen.add(record)
            parts[_half(filename, byte=0)].append((record, prompt, continuation, row))
    taken = {prompt for _, prompt, _, _ in parts[0]} if part == 1 else set()
    return (named for named in parts[part] if named[1] not in taken)


def _half(filename: str, *, byte: int) -> int:
    """0 or 1 for a source document, by one byte of the hash of its name; each byte halves anew."""
    return hashlib.sha256(filename.encode()).digest()[byte] % 2


def _check_thresholds(toxic_at_least: float, nontoxic_below: float) -> None:
    if not 0 <= nontoxic_below <= toxic_at_least <= 1:
        raise ValueError(
            f"toxic_at_least={toxic_at_least}, nontoxic_below={nontoxic_below}: thresholds lie in [0, 1] and "
            "nontoxic_below is not above toxic_at_least"
        )
