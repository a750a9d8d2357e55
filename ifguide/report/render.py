"""Pages from the templates in `templates/`: one file each, that asks the network for nothing.

Text is hostile by assumption: it is escaped wherever it is put, and the page's policy admits no script but the one
whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ifguide.report.plots import INK

# NUL and its kin are not allowed in HTML, directional overrides reorder what stands around them, and lone surrogates
# cannot be encoded: each is shown as a visible stand-in.
CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "␡"}
NOT_TEXT = re.compile("[\x80-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def render(template: str, **values: Any) -> bytes:
    """A page of a template; strings are text, `Markup` is HTML."""
    return environment().get_template(template).render(values).encode("utf-8")


@cache
def environment() -> Environment:
    static = resources.files("ifguide.report") / "static"
    css, script = (static.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    made = Environment(
        loader=PackageLoader("ifguide.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    made.globals |= {"css": Markup(css), "script": Markup(script), "script_hash": digest, "wide": False}
    return made


def visible(value: Any) -> Any:
    """Text without the characters that do not show, each of which has a stand-in; anything else as it is."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return NOT_TEXT.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", value.translate(CONTROL_PICTURES))


def inline_svg(file: Path, prefix: str) -> Markup:
    """The picture as an element whose ids are its own and whose ink and ground are the page's."""
    svg = file.read_text(encoding="utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    colour = rf'((?:fill|stroke|color)(?:: ?|="))(?:{INK}|#000000|black)(?=[;"])'  # of a style, not of a text
    svg = re.sub(colour, r"\g<1>currentColor", svg)
    return Markup(svg.replace("fill: #ffffff", "fill: none"))
