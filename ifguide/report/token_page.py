"""One HTML file to read: the highest-ranked training documents, every token shaded by its score.

The file asks the network for nothing and reads well without JavaScript; see `ifguide.report.html`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from ifguide.report.html import card, card_section, definitions, render_page, text, visible
from ifguide.workspace import write_atomically

SCALE_QUANTILE = 0.99  # |score| at which the shade is deepest; a few extreme tokens must not bleach the rest
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
    lead = token_lead(documents, threshold=threshold, summary=summary)
    page = render_page(title=title, lead=lead, sections=token_section(documents))
    write_atomically(Path(path), page)


def token_lead(documents: Sequence[PageDocument], *, threshold: float, summary: Mapping[str, str]) -> str:
    """What the shades mean, as HTML."""
    scale = f"{shade_scale(documents):.3g}"
    hidden = "" if any(document.annotated is not None for document in documents) else "hidden"
    return f"""<p class="notice" role="note">The documents below are training text, shown as it is. Some of it may be
offensive.</p>
<p>Each token carries the score that influence functions gave it. A positive score, in red, means that learning
this token makes toxic continuations likelier; a negative one, in blue, that it makes them less likely. Outlined tokens
are selected: in training their loss counts with its sign flipped.<span {hidden}> A dotted underline marks tokens
annotated as toxic.</span> Point at a token, or tap it, to read its score.</p>
<dl>
{definitions(list(summary.items()))}
</dl>
<ul class="legend">
<li class="ramp" aria-label="shades from blue, score minus {scale} or less, to red, score {scale} or more">−{scale}<i>\
</i>+{scale}</li>
<li>threshold τ = {threshold:.4g}</li>
<li><span class="key s">selected</span></li>
<li {hidden}><span class="key a">annotated as toxic</span></li>
<li>↵ line break</li>
</ul>"""


def token_section(
    documents: Sequence[PageDocument], *, lead: str = "", anchor: str = "documents", prefix: str = "d",
    veiled: bool = False,
) -> str:  # fmt: skip
    """The documents as cards, highest rank first; blurred until clicked where `veiled`."""
    for document in documents:
        _check(document)
    ranked = sorted(documents, key=lambda document: document.rank)
    scale = shade_scale(ranked)
    cards = [_card(document, i, len(ranked), scale, prefix, veiled) for i, document in enumerate(ranked, start=1)]
    return card_section(cards, unit="documents", lead=lead, anchor=anchor, empty="No documents to show.")


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


def _card(document: PageDocument, position: int, count: int, scale: float, prefix: str, veiled: bool) -> str:
    annotated = document.annotated if document.annotated is not None else [False] * len(document.tokens)
    columns = zip(document.tokens, document.scores, document.selected, annotated, strict=True)
    spans = "".join(_span(token, float(s), bool(chosen), bool(noted), scale) for token, s, chosen, noted in columns)
    selected = sum(map(bool, document.selected))
    label = f'<span class="label">{text(document.label)}</span>' if document.label else ""
    veil = 'class="text veil" tabindex="0"' if veiled else 'class="text"'
    return card(
        f'<div {veil} dir="auto" translate="no">{spans}</div>',
        heading=f"<bdi>{text(document.name)}</bdi>",
        extra=f'{label}<span class="count">{selected} of {len(document.tokens)} tokens selected</span>',
        position=position,
        count=count,
        unit="document",
        prefix=prefix,
        veiled=veiled,
    )


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
    hover = f"{score:+.3g} {visible(token).translate(WHITESPACE_PICTURES)}"
    if selected:
        hover += " (selected)"
    if annotated:
        hover += " (annotated toxic)"
    return f'<span class="{" ".join(classes)}"{style} title="{escape(hover)}">{text(token)}</span>'
