"""`report.html`: the comparison in one file that needs nothing else, see `ifguide.report.render`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ifguide.report.formats import explanation, is_single, lay_out
from ifguide.report.generations import generation_values
from ifguide.report.render import inline_svg, render
from ifguide.report.rows import Comparison
from ifguide.report.settings import facts, link_to, settings_values
from ifguide.report.table import Column
from ifguide.report.token_page import PageDocument, page_values
from ifguide.workspace import write_atomically

DOCUMENTS = 30  # of each kind, of each token page
MASKS = 4


def write_page(path: Path, comparison: Comparison, *, title: str, plots: Sequence[tuple[str, Path]]) -> None:
    """Write the report; `plots` are captions and SVG files, which are copied into the page."""
    generations = generation_values(comparison)
    token_pages = token_page_values(comparison)
    contents = [("results", "Results")]
    contents += [("plots", "Plots")] * bool(plots)
    contents += [("generations", "Generations")] * bool(generations)
    contents += [(page["anchor"], page["heading"]) for page in token_pages]
    contents += [("settings", "Settings")]
    first = headline_columns(comparison)
    every = [*first, *comparison.columns, *comparison.every_column]  # some are there twice, with headers of their own
    columns = list({(one.task, one.subset, one.metric): one for one in reversed(every)}.values())[::-1]
    page = render(
        "report.html",
        title=title,
        wide=True,
        facts=facts(comparison),
        positive=comparison.wording.positive,
        measured=len(comparison.measured),
        failed=len(comparison.failed),
        contents=contents,
        layout=lay_out(comparison, columns, (), longest_problem=None),
        first=len(first),
        runs=[[(run.seed, link_to(run.place, path.parent)) for run in row.runs] for row in comparison.rows],
        reference=comparison.reference,
        explanation=explanation(comparison),
        single=is_single(comparison),
        split=lambda text: text.partition(" ")[::2],
        header=lambda text: re.sub(" (?=[↓↑])", "\u00a0", text),
        plots=[(caption, inline_svg(file, f"plot{i}-")) for i, (caption, file) in enumerate(plots)],
        generations=generations,
        token_pages=token_pages,
        settings=settings_values(comparison, path.parent),
    )
    write_atomically(Path(path), page)


def headline_columns(comparison: Comparison) -> list[Column]:
    """What is shown before anything is clicked: the headline, whether any sample shows it, perplexities, win rates."""
    headline = comparison.headline
    wanted = [headline, comparison.utility, comparison.generated]
    metrics = (headline.metric, "toxicity_probability")
    mine = [one for one in comparison.columns if one.task == headline.task and one.subset == "all"]
    wanted += [one for one in mine if one.metric in metrics]
    wanted += [one for one in comparison.columns if one.task not in (headline.task, "cost", "filter", "perplexity")]
    return [one for one in comparison.columns if one in wanted] or list(comparison.columns)


def token_page_values(comparison: Comparison) -> list[dict[str, Any]]:
    """The scored training documents of each different mask, a page for every behaviour."""
    shown: list[str] = []
    pages: list[dict[str, Any]] = []
    for row in comparison.measured:
        try:
            found = row.runs[0].token_pages()
            content = json.dumps(found, sort_keys=True)
            if not found or content in shown or len(shown) == MASKS:
                continue
            shown.append(content)
            several = len(found) > 1
            made = [
                page_values(
                    first_of_each([PageDocument(**document) for document in page["documents"]]),
                    threshold=page["threshold"],
                    summary=page["summary"],
                    behaviour=behaviour,
                    positive=page.get("positive", "toxic"),
                )
                | {"heading": f"Training tokens: {row.name}" + (f", {behaviour}" if several else "")}
                for behaviour, page in found.items()
            ]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            made = [{"heading": f"Training tokens: {row.name}", "problem": f"a damaged token page: {error}"}]
        pages += [{"problem": None} | page for page in made]
    return [page | {"anchor": f"tokens-{index}"} for index, page in enumerate(pages)]


def first_of_each(documents: Sequence[PageDocument]) -> list[PageDocument]:
    """Documents of each group, as many as a report shows: half as many of those that are not the highest."""
    counts: dict[str, int] = {}
    kept = []
    for document in documents:
        counts[document.group] = counts.get(document.group, 0) + 1
        if counts[document.group] <= (DOCUMENTS if document.group == "highest" else DOCUMENTS // 3):
            kept.append(document)
    return kept
