"""The page that reports and token pages share: one file, no network, no script but the template's own.

Text is hostile by assumption: it enters as escaped text and attributes only, and the content policy admits no script
but the one whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

# NUL and its kin are not allowed in HTML, directional overrides reorder what stands around them, and lone surrogates
# cannot be encoded: each is shown as a visible stand-in.
CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "␡"}
NOT_TEXT = re.compile("[\x80-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def render_page(*, title: str, lead: str, sections: str, wide: bool = False) -> bytes:
    """The whole page; `lead` and `sections` are HTML, the title is text."""
    template = resources.files("ifguide.report").joinpath("page.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", template, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    page = Template(template).substitute(
        title=text(title), lead=lead, sections=sections, script_hash=digest, width=" wide" if wide else ""
    )
    return page.encode("utf-8")


def card_section(
    cards: Sequence[str], *, unit: str, lead: str = "", anchor: str = "cards", empty: str = "", wide: bool = False
) -> str:
    """A section of cards with a bar to search them; `unit` names what is counted, `lead` stands above, as HTML."""
    width = " wide" if wide else ""
    return (
        f'<section id="{anchor}">\n{lead}\n<div class="bar{width}" data-unit="{text(unit)}" hidden><div>\n'
        '<input type="search" name="search" placeholder="Search the text …" '
        f'aria-label="Show {text(unit)} that contain this text" autocomplete="off">\n'
        f'<span role="status">{len(cards)} {text(unit)}</span>\n<button type="button">show all</button>\n'
        '<span class="keys"><kbd>j</kbd> next <kbd>k</kbd> previous <kbd>/</kbd> search</span>\n</div></div>\n'
        f'<div class="cards{width}">\n' + ("\n".join(cards) or f"<p>{text(empty)}</p>") + "\n</div>\n</section>"
    )


def card(
    body: str, *, heading: str, extra: str, position: int, count: int, unit: str, prefix: str, veiled: bool
) -> str:
    """One card with its steps to the neighbours; `body`, `heading` and `extra` are HTML."""
    place = f"{prefix}{position}"
    button = '<button type="button" class="reveal" aria-pressed="false" hidden>show</button>' if veiled else ""
    return (
        f'<article id="{place}" tabindex="-1" aria-labelledby="h-{place}"><header>'
        f'<h3 id="h-{place}"><span class="rank">{position}</span> {heading}</h3>{extra}{button}'
        f"<nav>{_step('previous', position - 1, count, unit, prefix)}{_step('next', position + 1, count, unit, prefix)}"
        f"</nav></header>{body}</article>"
    )


def _step(word: str, target: int, count: int, unit: str, prefix: str) -> str:
    arrow = "↑" if word == "previous" else "↓"
    if not 1 <= target <= count:
        return f'<a aria-disabled="true">{arrow}</a>'
    label = f"{word} {unit}"
    return f'<a href="#{prefix}{target}" rel="{word[:4]}" title="{label}" aria-label="{label}">{arrow}</a>'


def visible(value: str) -> str:
    return NOT_TEXT.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", value.translate(CONTROL_PICTURES))


def text(value: object) -> str:
    """Anything as escaped text, also for attributes in quotes."""
    return escape(visible(str(value)))


def definitions(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"<div><dt>{text(key)}</dt><dd>{text(value)}</dd></div>" for key, value in pairs)
