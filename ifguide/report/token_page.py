"""One HTML file to read: the highest-ranked training documents, every token shaded by its score.

The file asks the network for nothing and reads well without JavaScript. Document text is hostile by assumption: it
enters as escaped text and attributes only, and the page's content policy lets no script run but the template's own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from ifguide.report import write_atomically

SCALE_QUANTILE = 0.99  # |score| at which the shade is deepest; a few extreme tokens must not bleach the rest

# NUL and its kin are not allowed in HTML, directional overrides reorder what stands around them, and lone surrogates
# cannot be encoded: each is shown as a visible stand-in.
CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "␡"}
NOT_TEXT = re.compile("[\x80-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
WHITESPACE_PICTURES = str.maketrans({"\n": "↵", "\t": "⇥", " ": "␣"})


@dataclass(frozen=True)
class PageDocument:
    name: str
    rank: int  # 1 = highest
    tokens: Sequence[str]
    scores: Sequence[float]
    selected: Sequence[bool]
    annotated: Sequence[bool] | None = None
    label: str | None = None


def write_token_page(
    path: Path, documents: Sequence[PageDocument], *, title: str, threshold: float, summary: Mapping[str, str]
) -> None:
    """Write the page of `documents`, highest rank first; `summary` is shown above them as key and value."""
    for document in documents:
        _check(document)
    ranked = sorted(documents, key=lambda document: document.rank)
    scale = shade_scale(ranked)
    template = resources.files("ifguide.report").joinpath("token_page.html").read_text(encoding="utf-8")
    page = Template(template).substitute(
        title=_escape(title),
        script_hash=_script_hash(template),
        summary="\n".join(f"<div><dt>{_escape(k)}</dt><dd>{_escape(v)}</dd></div>" for k, v in summary.items()),
        threshold=f"{threshold:.4g}",
        scale=f"{scale:.3g}",
        annotation_hidden="" if any(document.annotated is not None for document in ranked) else "hidden",
        count=len(ranked),
        documents="\n".join(_card(document, i, len(ranked), scale) for i, document in enumerate(ranked, start=1))
        or "<p>No documents to show.</p>",
    )
    write_atomically(Path(path), page.encode("utf-8"))


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


def _card(document: PageDocument, position: int, count: int, scale: float) -> str:
    annotated = document.annotated if document.annotated is not None else [False] * len(document.tokens)
    columns = zip(document.tokens, document.scores, document.selected, annotated, strict=True)
    spans = "".join(_span(token, float(s), bool(chosen), bool(noted), scale) for token, s, chosen, noted in columns)
    selected = sum(map(bool, document.selected))
    label = f'<span class="label">{_escape(document.label)}</span>' if document.label else ""
    return (
        f'<article id="d{position}" tabindex="-1" aria-labelledby="h{position}"><header>'
        f'<h2 id="h{position}"><span class="rank">{document.rank}</span> <bdi>{_escape(document.name)}</bdi></h2>'
        f'{label}<span class="count">{selected} of {len(document.tokens)} tokens selected</span>'
        f"<nav>{_step('previous', position - 1, count)}{_step('next', position + 1, count)}</nav></header>"
        f'<div class="text" dir="auto" translate="no">{spans}</div></article>'
    )


def _step(word: str, target: int, count: int) -> str:
    arrow = "↑" if word == "previous" else "↓"
    if not 1 <= target <= count:
        return f'<a aria-disabled="true">{arrow}</a>'
    return f'<a href="#d{target}" rel="{word[:4]}" title="{word} document" aria-label="{word} document">{arrow}</a>'


def _span(token: str, score: float, selected: bool, annotated: bool, scale: float) -> str:
    depth = round(min(abs(score) / scale, 1.0), 2)
    classes = ["t"]
    if depth:
        classes.append("p" if score > 0 else "n")
    if selected:
        classes.append("s")
    if annotated:
        classes.append("a")
    if "\n" in token:
        classes.append("l")
    style = f' style="--a:{depth:g}"' if depth else ""
    hover = f"{score:+.3g} {_visible(token).translate(WHITESPACE_PICTURES)}"
    if selected:
        hover += " (selected)"
    if annotated:
        hover += " (annotated toxic)"
    return f'<span class="{" ".join(classes)}"{style} title="{escape(hover)}">{_escape(token)}</span>'


def _visible(text: str) -> str:
    return NOT_TEXT.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text.translate(CONTROL_PICTURES))


def _escape(text: object) -> str:
    return escape(_visible(str(text)))


def _script_hash(template: str) -> str:
    (script,) = re.findall(r"<script>(.*?)</script>", template, flags=re.DOTALL)
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
