"""One HTML file to read: the highest-ranked training documents, every token shaded by its score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.blocks import LABELS, Corpus, Split
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.tokenizers import token_texts
from ifguide.report.gather import TOKENS_FILE
from ifguide.report.plots import plot_scores
from ifguide.report.render import render, visible
from ifguide.workspace import write_atomically

SCALE_QUANTILE = 0.99  # |score| at which the shade is deepest; a few extreme tokens must not bleach the rest
WHITESPACE_PICTURES = str.maketrans({"\n": "↵", "\t": "⇥", " ": "␣"})
PAGE_DOCUMENTS = 60
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


def write_token_pages(
    corpus: Corpus,
    behaviours: Sequence[str],
    scores_KBT: NDArray[np.float32],
    mask: TokenMask,
    facts: Mapping[str, Any],
    directory: Path,
) -> list[Path]:
    """For every behaviour a page of the documents with the highest sum of selected scores, and a histogram of scores.

    Args:
        corpus: its split `train` was scored.
        behaviours: names of the K columns.
        scores_KBT: what was selected from, memory-mapped.
        mask: the tokens that were selected, for any of the behaviours.
        facts: of the mask: `selected` tokens, and `behaviours`: name → `threshold`.
        directory: gets `tokens-<behaviour>.html`, `.json` and `token_scores-<behaviour>.png`.

    Returns:
        The pages.
    """
    split = corpus.split("train")
    annotated = None if split.annotation is None else split.annotation[:][:, 1:]
    total = len(mask) * mask.block_length
    pages = []
    for behaviour, scores_BT in zip(behaviours, scores_KBT, strict=True):
        threshold = float(facts["behaviours"][behaviour]["threshold"])
        histogram = directory / f"token_scores-{behaviour}.png"
        plot_scores(scores_BT[:, 1:], threshold, histogram, annotated=annotated)
        documents = top_documents(corpus, split, scores_BT, mask)
        summary = {
            "threshold τ": f"{threshold:.4g}",
            "tokens selected": f"{facts['selected']:,} of {total:,} ({facts['selected'] / total:.2%})",
            "documents": f"those with the highest sum of selected scores, of {len(split.documents):,}",
        }
        if len(behaviours) > 1:
            summary["selected for any of"] = ", ".join(behaviours)
        page = {"threshold": threshold, "summary": summary, "documents": [asdict(document) for document in documents]}
        file = directory / TOKENS_FILE.format(behaviour=behaviour)
        write_atomically(file, json.dumps(page).encode())
        pages.append(file.with_suffix(".html"))
        write_token_page(
            pages[-1],
            documents,
            title="Tokens that teach the behaviour" + (f": {behaviour}" if len(behaviours) > 1 else ""),
            threshold=threshold,
            summary=summary,
            behaviour=behaviour,
        )
    return pages


def top_documents(
    corpus: Corpus, split: Split, scores_BT: NDArray[np.float32], mask: TokenMask, count: int = PAGE_DOCUMENTS
) -> list[PageDocument]:
    """The documents with the highest sum of selected scores, highest first."""
    length = split.block_length
    sums = np.zeros(len(split.documents))
    for first in range(0, len(mask), ROWS):
        rows = slice(first, first + ROWS)
        here = np.flatnonzero(mask[rows])
        np.add.at(sums, split.documents_of(first * length + here), scores_BT[rows].reshape(-1)[here])
    texts = token_texts(corpus.tokenizer)
    names = {code: label for label, code in LABELS.items()}
    documents = []
    for rank, index in enumerate(np.argsort(-sums, kind="stable")[:count], start=1):
        start, end = split.extent(int(index))
        blocks = slice(start // length, -(-end // length))
        inside = slice(start - blocks.start * length, end - blocks.start * length)
        row = split.documents[index]
        documents.append(
            PageDocument(
                name=f"{corpus.sources[row['source']]}, record {row['record']}",
                rank=rank,
                tokens=[texts[token] for token in split.tokens(blocks).reshape(-1)[inside]],
                scores=scores_BT[blocks].reshape(-1)[inside].tolist(),
                selected=mask[blocks].reshape(-1)[inside].tolist(),
                annotated=None if split.annotation is None else split.annotation[blocks].reshape(-1)[inside].tolist(),
                label=names[int(row["label"])],
            )
        )
    return documents


def write_token_page(
    path: Path,
    documents: Sequence[PageDocument],
    *,
    title: str,
    threshold: float,
    summary: Mapping[str, str],
    behaviour: str | None = None,
) -> None:
    """Write the page of `documents`, highest rank first; `summary` is shown above them as key and value."""
    page = page_values(documents, threshold=threshold, summary=summary, behaviour=behaviour)
    write_atomically(Path(path), render("tokens.html", title=title, page=page))


def page_values(
    documents: Sequence[PageDocument], *, threshold: float, summary: Mapping[str, str], behaviour: str | None = None
) -> dict[str, Any]:
    """What `token_parts.html` shows of a page.

    Raises:
        ValueError: a document has not one score and flag a token, or a score is not finite.
    """
    for document in documents:
        _check(document)
    scale = shade_scale(documents)
    ranked = sorted(documents, key=lambda document: document.rank)
    return {
        "behaviour": behaviour,
        "scale": f"{scale:.3g}",
        "threshold": f"{threshold:.4g}",
        "summary": list(summary.items()),
        "annotated": any(document.annotated is not None for document in documents),
        "documents": [_document_values(document, scale) for document in ranked],
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


def _document_values(document: PageDocument, scale: float) -> dict[str, Any]:
    annotated = document.annotated if document.annotated is not None else [False] * len(document.tokens)
    columns = zip(document.tokens, document.scores, document.selected, annotated, strict=True)
    return {
        "name": document.name,
        "label": document.label,
        "remark": f"{sum(map(bool, document.selected))} of {len(document.tokens)} tokens selected",
        "tokens": [
            _token_values(token, float(s), bool(chosen), bool(noted), scale) for token, s, chosen, noted in columns
        ],
    }


def _token_values(token: str, score: float, selected: bool, annotated: bool, scale: float) -> dict[str, str]:
    depth = round(min(abs(score) / scale, 1.0), 2)
    classes = ["t"]
    if depth:
        classes.append("p" if score > 0 else "n")
    classes += [name for name, holds in (("s", selected), ("a", annotated), ("l", "\n" in token)) if holds]
    hover = f"{score:+.3g} {visible(token).translate(WHITESPACE_PICTURES)}"
    hover += " (selected)" * selected + " (annotated toxic)" * annotated
    return {"text": token, "classes": " ".join(classes), "depth": f"{depth:g}" if depth else "", "hover": hover}
