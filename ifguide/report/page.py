"""`report.html`: the comparison in one file that needs nothing else, see `ifguide.report.html`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ifguide.evaluation.toxicity import TOXIC_FROM
from ifguide.report.formats import Line, explanation, lay_out
from ifguide.report.gather import PromptScores, Run
from ifguide.report.html import card, card_section, definitions, render_page, text
from ifguide.report.plots import INK
from ifguide.report.rows import TOXICITY_CATEGORY, Comparison, samples_of
from ifguide.report.token_page import PageDocument, token_lead, token_section
from ifguide.workspace import write_atomically

PROMPTS = 40  # shown side by side
SAMPLES = 3  # of each method and prompt
DOCUMENTS = 30  # of each mask
MASKS = 4


def write_page(path: Path, comparison: Comparison, *, title: str, plots: Sequence[tuple[str, Path]]) -> None:
    """Write the report; `plots` are captions and SVG files, which are copied into the page."""
    sections = [("results", "Results", results_html(comparison))]
    if plots:
        drawn = "\n".join(
            f'<figure role="img" aria-label="{text(caption)}">{inline_svg(file, f"plot{i}-")}</figure>'
            for i, (caption, file) in enumerate(plots)
        )
        sections.append(("plots", "Plots", drawn))
    sections.append(("settings", "Settings", settings_html(comparison)))
    body = [
        f'<section id="{anchor}"><div class="top wide"><h2>{heading}</h2>\n{html}\n</div></section>'
        for anchor, heading, html in sections
    ]
    contents = [(anchor, heading) for anchor, heading, _ in sections]
    collections = [*generations_section(comparison), *token_sections(comparison)]
    for anchor, heading, html in collections:
        contents.insert(-1, (anchor, heading))
        body.insert(-1, html)
    measured, failed = len(comparison.measured), len(comparison.failed)
    lead = (
        f"<p>{measured} {'row' if measured == 1 else 'rows'} measured"
        + (f", {failed} without a result" if failed else "")
        + (f"; compared with <b>{text(comparison.reference)}</b>" if comparison.reference else "")
        + ".</p>\n"
        + (
            '<p class="notice" role="note">Below the table stand texts that models wrote and texts they were trained '
            "on. They may be offensive, and are blurred until you click them.</p>\n"
            if collections
            else ""
        )
        + '<ul class="contents">'
        + "".join(f'<li><a href="#{anchor}">{text(heading)}</a></li>' for anchor, heading in contents)
        + "</ul>"
    )
    write_atomically(Path(path), render_page(title=title, lead=lead, sections="\n".join(body), wide=True))


def results_html(comparison: Comparison) -> str:
    layout = lay_out(comparison, longest_problem=None)
    headers = "".join(
        f'<th scope="col">{re.sub(" (?=[↓↑])", "&nbsp;", text(header))}</th>'
        for header in ("method", "seeds", *layout.headers)
    )
    rows = "\n".join(_line(line, len(layout.headers)) for line in layout.lines)
    notes = "".join(f"<li>{text(note)}</li>" for note in layout.notes)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Results"><table>\n'
        f"<thead><tr>{headers}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n<p>{text(explanation(comparison))}</p>\n"
        + (f'<ol class="notes">{notes}</ol>' if notes else "")
    )


def _line(line: Line, width: int) -> str:
    marks = f" <sup>{', '.join(map(str, line.marks))}</sup>" if line.marks else ""
    start = f'<tr><th scope="row">{text(line.name)}{marks}</th><td>{text(line.seeds)}</td>'
    if line.problem is not None:
        return f'{start}<td class="problem" colspan="{width}">{text(line.problem)}</td></tr>'
    cells = []
    for cell in line.cells:
        value, _, interval = cell.text.partition(" ")
        small = f"<small>{text(interval)}</small>" if interval else ""
        cells.append(
            f'<td class="best"><strong>{text(value)}</strong>{small}</td>'
            if cell.best
            else f"<td>{text(value)}{small}</td>"
        )
    return start + "".join(cells) + "</tr>"


def inline_svg(file: Path, prefix: str) -> str:
    """The picture as an element whose ids are its own and whose ink and ground are the page's."""
    svg = file.read_text(encoding="utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    return re.sub(rf"{INK}|#000000|black", "currentColor", svg).replace("fill: #ffffff", "fill: none")


def settings_html(comparison: Comparison) -> str:
    parts = []
    for row in comparison.rows:
        runs = "".join(_run(run) for run in row.runs)
        config = json.dumps(row.runs[0].config, indent=2, ensure_ascii=False, default=str) if row.runs else ""
        parts.append(
            f"<details><summary>{text(row.name)}</summary>{runs}"
            f"<details><summary>configuration of seed {row.runs[0].seed}</summary><pre>{text(config)}</pre></details>"
            "</details>"
        )
    return "\n".join(parts)


def _run(run: Run) -> str:
    pairs = [("seed", str(run.seed)), ("folder", run.place)]
    pairs += [(key, value) for key, value in run.overrides.items() if key != "seed"]
    pairs += [(f"artifact: {role}", path.name) for role, path in run.artifacts.items()]
    return f"<dl>{definitions(pairs)}</dl>"


def generations_section(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Side by side: what each method, in its first seed, wrote for the same prompts."""
    known = [(row.name, samples_of(row)) for row in comparison.measured]
    sides = {name: scores for name, scores in known if scores is not None}
    if not sides:
        return []
    first = sides.get(comparison.reference or "") or next(iter(sides.values()))
    chosen = interesting_prompts(first)
    places = {name: {key: i for i, key in enumerate(scores.keys)} for name, scores in sides.items()}
    cards = []
    for position, index in enumerate(chosen, start=1):
        record, prompt = first.keys[index]
        columns = "".join(_side(name, scores, places[name].get((record, prompt))) for name, scores in sides.items())
        cards.append(
            card(
                f'<div class="text veil parts" tabindex="0" translate="no" style="line-height:1.5">'
                f'<p class="prompt" dir="auto">{text(prompt)}</p><div class="sides">{columns}</div></div>',
                heading=f"<bdi>{text(record)}</bdi>",
                extra=f'<span class="label">{text(first.subsets[index])}</span>',
                position=position,
                count=len(chosen),
                unit="prompt",
                prefix="g",
                veiled=True,
            )
        )
    asked = f"all {len(chosen)} prompts"
    if len(chosen) < len(first.keys):
        name = next(name for name, scores in sides.items() if scores is first)
        asked = (
            f"{len(chosen)} of {len(first.keys)} prompts: half at regular intervals through all of them, and those "
            f"others on which {text(name)} was most toxic"
        )
    lead = (
        '<div class="top wide"><h2>Generations</h2><p>'
        f"The first {SAMPLES} samples of each method's first seed for {asked}. Beside each sample stands the "
        "classifier's probability.</p></div>"
    )
    html = card_section(cards, unit="prompts", lead=lead, anchor="generations", wide=True)
    return [("generations", "Generations", html)]


def interesting_prompts(scores: PromptScores) -> list[int]:
    """Half at regular intervals, half the most toxic of the rest, in the order of the prompts."""
    count = len(scores.keys)
    if count <= PROMPTS:
        return list(range(count))
    regular = np.linspace(0, count - 1, PROMPTS - PROMPTS // 2).round().astype(int)
    order = np.argsort(-scores.probabilities[TOXICITY_CATEGORY].mean(1), kind="stable")
    others = [index for index in order if index not in set(regular)][: PROMPTS // 2]
    return sorted({*map(int, regular), *map(int, others)})


def _side(name: str, scores: PromptScores, index: int | None) -> str:
    if index is None:
        return f"<div><h4>{text(name)}</h4><p>not asked this prompt</p></div>"
    samples = zip(scores.continuations[index], scores.probabilities[TOXICITY_CATEGORY][index], strict=True)
    items = "".join(
        f'<li dir="auto"><span class="tag{" high" if p >= TOXIC_FROM else ""}">{p:.2f}</span>'
        f"{text(sample.lstrip())}</li>"
        for sample, p in list(samples)[:SAMPLES]
    )
    return f"<div><h4>{text(name)}</h4><ol>{items}</ol></div>"


def token_sections(comparison: Comparison) -> list[tuple[str, str, str]]:
    """The scored training documents of each different mask."""
    shown: dict[str, str] = {}
    sections = []
    for row in comparison.measured:
        page = row.runs[0].page_documents()
        content = json.dumps(page, sort_keys=True)
        if page is None or content in shown or len(shown) == MASKS:
            continue
        anchor = f"tokens-{len(shown)}"
        shown[content] = anchor
        documents = [PageDocument(**document) for document in page["documents"]][:DOCUMENTS]
        heading = f"Training tokens: {row.name}"
        summary: Mapping[str, str] = page["summary"]
        lead = (
            f'<div class="top"><h2>{text(heading)}</h2>\n'
            f"{token_lead(documents, threshold=page['threshold'], summary=summary)}</div>"
        )
        html = token_section(documents, lead=lead, anchor=anchor, prefix=f"{anchor}-", veiled=True)
        sections.append((anchor, heading, html))
    return sections
