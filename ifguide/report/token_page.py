"""One HTML file to read: training documents of the highest and lowest scores and some at random, every token shaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.blocks import LABELS, Corpus, Split
from ifguide.corpus.documents import BENIGN, TOXIC
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.offsets import TokenOffsets
from ifguide.report.gather import TOKENS_FILE
from ifguide.report.plots import plot_scores
from ifguide.report.render import render, visible
from ifguide.report.wording import Wording, wording_of
from ifguide.workspace import write_atomically

SCALE_QUANTILE = 0.99  # |score| at which the shade is deepest; a few extreme tokens must not bleach the rest
WHITESPACE_PICTURES = str.maketrans({"\n": "↵", "\t": "⇥", " ": "␣"})
GROUPS = {"highest": 60, "random": 20, "lowest": 20}  # documents of a page
ROWS = 4096  # blocks read at a time


@dataclass(frozen=True)
class PageDocument:
    name: str
    rank: int  # 1 = highest
    tokens: Sequence[str]
    scores: Sequence[float]
    selected: Sequence[bool]
    annotated: Sequence[bool] | None = None
    label: str | None = None
    group: str = "highest"


def write_token_pages(
    corpus: Corpus,
    behaviours: Sequence[str],
    scores_KBT: NDArray[np.float32],
    mask: TokenMask,
    facts: Mapping[str, Any],
    directory: Path,
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Path]:
    """For every behaviour a page of documents, and a histogram of scores.

    Args:
        corpus: its split `train` was scored.
        behaviours: names of the K columns.
        scores_KBT: what was selected from, memory-mapped.
        mask: the tokens that were selected, for any of the behaviours.
        facts: of the mask: `selected` tokens, and `behaviours`: name → `threshold`.
        directory: gets `tokens-<behaviour>.html`, `.json` and `token_scores-<behaviour>.png`.
        labels: see `ifguide.report.wording.wording_of`.

    Returns:
        The pages.
    """
    split = corpus.split("train")
    annotated = None if split.annotation is None else split.annotation[:][:, 1:]
    total = len(mask) * mask.block_length
    of_corpus = wording_of_behaviour(behaviours[0], labels or {})  # what its labels and spans are of
    words, pages = (of_corpus.negative, of_corpus.positive), []
    for behaviour, scores_BT in zip(behaviours, scores_KBT, strict=True):
        threshold = float(facts["behaviours"][behaviour]["threshold"])
        histogram = directory / f"token_scores-{behaviour}.png"
        plot_scores(scores_BT[:, 1:], threshold, histogram, annotated=annotated, labels=words)
        documents = page_documents(corpus, split, scores_BT, mask, of_corpus)
        summary = {
            "threshold τ": f"{threshold:.4g}",
            "tokens selected": f"{facts['selected']:,} of {total:,} ({facts['selected'] / total:.2%})",
            "documents": f"the highest, the lowest and some at random, of {len(split.documents):,}",
        }
        if len(behaviours) > 1:
            summary["selected for any of"] = ", ".join(behaviours)
        page = {
            "threshold": threshold,
            "positive": of_corpus.positive,
            "summary": summary,
            "documents": [vars(document) for document in documents],
        }
        file = directory / TOKENS_FILE.format(behaviour=behaviour)
        write_atomically(file, json.dumps(page).encode())
        pages.append(file.with_suffix(".html"))
        write_token_page(
            pages[-1],
            documents,
            title=f"Tokens that teach {behaviour}",
            threshold=threshold,
            summary=summary,
            behaviour=behaviour,
            positive=of_corpus.positive,
        )
    return pages


def wording_of_behaviour(behaviour: str, labels: Mapping[str, Mapping[str, str]]) -> Wording:
    task = next((task for task, words in labels.items() if words["behaviour"] == behaviour), behaviour)
    return wording_of(task, labels)


def page_documents(
    corpus: Corpus, split: Split, scores_BT: NDArray[np.float32], mask: TokenMask, wording: Wording
) -> list[PageDocument]:
    """The documents of each group, ranked within it.

    Tokens that no text holds, as the end of a document, are left out. Those that hold parts of one character are shown
    as one: selected where one of them is, with the score that is furthest from 0.
    """
    length = split.block_length
    selected_sums, sums = np.zeros(len(split.documents)), np.zeros(len(split.documents))
    for first in range(0, len(mask), ROWS):
        rows = slice(first, first + ROWS)
        scores = scores_BT[rows].reshape(-1)
        owner = split.documents_of(first * length + np.arange(len(scores)))
        np.add.at(sums, owner, scores)
        here = np.flatnonzero(mask[rows])
        np.add.at(selected_sums, owner[here], scores[here])
    read = TokenOffsets(corpus.tokenizer)
    special = np.array(corpus.tokenizer.all_special_ids)
    names = {LABELS[None]: None, LABELS[BENIGN]: wording.negative, LABELS[TOXIC]: wording.positive}
    order = {
        "highest": np.argsort(-selected_sums, kind="stable"),
        "random": np.random.default_rng(0).permutation(len(sums)),
        "lowest": np.argsort(sums, kind="stable"),
    }
    flags = [mask, *([] if split.annotation is None else [split.annotation])]
    documents = []
    for group, count in GROUPS.items():
        for rank, index in enumerate(order[group][:count], start=1):
            start, end = split.extent(int(index))
            blocks = slice(start // length, -(-end // length))
            inside = slice(start - blocks.start * length, end - blocks.start * length)
            tokens = split.tokens(blocks).reshape(-1)[inside]
            shown = ~np.isin(tokens, special)
            if not shown.any():
                continue
            row = split.documents[index]
            texts, begins = whole_characters(*read(tokens[shown]))
            values = scores_BT[blocks].reshape(-1)[inside][shown]
            chosen, *noted = (
                np.logical_or.reduceat(one[blocks].reshape(-1)[inside][shown], begins).tolist() for one in flags
            )
            documents.append(
                PageDocument(
                    name=f"{corpus.sources[row['source']]}, record {row['record']}",
                    rank=rank,
                    tokens=texts,
                    scores=strongest(values, begins).tolist(),
                    selected=chosen,
                    annotated=noted[0] if noted else None,
                    label=names[int(row["label"])],
                    group=group,
                )
            )
    return documents


def whole_characters(text: str, offsets_T2: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """Texts of neighbouring tokens that share no character with others, and the first token of each.

    Args:
        text, offsets_T2: of `TokenOffsets`, for one token at least.
    """
    starts, ends = offsets_T2[:, 0], np.maximum.accumulate(offsets_T2[:, 1])
    first = np.flatnonzero(np.concatenate([[True], starts[1:] >= ends[:-1]]))
    bounds = [*starts[first].tolist(), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)], first


def strongest(scores_T: NDArray[np.float32], first: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of each group of tokens, which begins with one of `first`, the score that is furthest from 0."""
    low, high = np.minimum.reduceat(scores_T, first), np.maximum.reduceat(scores_T, first)
    return np.where(-low > high, low, high)


def write_token_page(
    path: Path,
    documents: Sequence[PageDocument],
    *,
    title: str,
    threshold: float,
    summary: Mapping[str, str],
    behaviour: str | None = None,
    positive: str = "toxic",
) -> None:
    """Write the page of `documents`, by group and rank; `summary` is shown above them as key and value."""
    page = page_values(documents, threshold=threshold, summary=summary, behaviour=behaviour, positive=positive)
    write_atomically(Path(path), render("tokens.html", title=title, page=page))


def page_values(
    documents: Sequence[PageDocument],
    *,
    threshold: float,
    summary: Mapping[str, str],
    behaviour: str | None = None,
    positive: str = "toxic",
) -> dict[str, Any]:
    """What `token_parts.html` shows of a page.

    Raises:
        ValueError: a document has not one score and flag a token, or a score is not finite.
    """
    for document in documents:
        _check(document)
    scale = shade_scale(documents)
    places = {group: place for place, group in enumerate(dict.fromkeys([*GROUPS, *(d.group for d in documents)]))}
    ranked = sorted(documents, key=lambda document: (places[document.group], document.rank))
    return {
        "behaviour": behaviour,
        "positive": positive,
        "scale": f"{scale:.3g}",
        "threshold": f"{threshold:.4g}",
        "summary": list(summary.items()),
        "annotated": any(document.annotated is not None for document in documents),
        "groups": [group for group in places if any(document.group == group for document in documents)],
        "documents": [_document_values(document, scale, positive) for document in ranked],
    }


def shade_scale(documents: Sequence[PageDocument]) -> float:
    """The |score| shown in the deepest shade: a high quantile over the page, or the largest where that is 0."""
    magnitudes = np.abs(np.concatenate([np.zeros(1), *(np.asarray(d.scores, dtype=float) for d in documents)]))
    return float(np.quantile(magnitudes, SCALE_QUANTILE)) or float(magnitudes.max()) or 1.0


def _check(document: PageDocument) -> None:
    count = len(document.tokens)
    for field in ("scores", "selected", "annotated"):
        values = getattr(document, field)
        if values is not None and len(values) != count:
            raise ValueError(f"document {document.name!r}: {len(values)} {field} for {count} tokens; give one each")
    if not np.isfinite(np.asarray(document.scores, dtype=float)).all():
        raise ValueError(f"document {document.name!r} has scores that are not finite; score it again")


def _document_values(document: PageDocument, scale: float, positive: str) -> dict[str, Any]:
    count = len(document.tokens)
    noted = document.annotated if document.annotated is not None else [False] * count
    chosen = [False, *map(bool, document.selected), False]  # so that every token has neighbours
    return {
        "name": document.name,
        "label": document.label,
        "group": document.group,
        "remark": f"{sum(chosen)} of {count} tokens selected",
        "tokens": [
            _token_values(token, float(score), chosen[i : i + 3], bool(note), scale, positive)
            for i, (token, score, note) in enumerate(zip(document.tokens, document.scores, noted, strict=True))
        ],
    }


def _token_values(
    token: str, score: float, selected: Sequence[bool], annotated: bool, scale: float, positive: str
) -> dict[str, str]:
    """Text, classes and hover of a token; `selected` are the flags of the one before, of itself, and of the next."""
    depth = round(min(abs(score) / scale, 1.0), 2)
    before, own, after = selected
    classes = ["t"]
    if depth:
        classes.append("p" if score > 0 else "n")
    flags = (("s", own), ("b", own and not before), ("e", own and not after), ("a", annotated), ("l", "\n" in token))
    classes += [name for name, holds in flags if holds]
    hover = f"{score:+.3g} {visible(token).translate(WHITESPACE_PICTURES)}"
    hover += " (selected)" * own + f" (annotated {positive})" * annotated
    return {"text": token, "classes": " ".join(classes), "depth": f"{depth:g}" if depth else "", "hover": hover}
