"""A comparison on disk: tables, plots and the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ifguide.report.formats import comma_separated, latex, markdown
from ifguide.report.frontier import plot_frontier
from ifguide.report.page import write_page
from ifguide.report.plots import Style, plot_bars, styles_of
from ifguide.report.relearning import curve_names, curve_of, plot_relearning
from ifguide.report.rows import Comparison
from ifguide.report.table import Column
from ifguide.report.values import category_fractions, subset_fractions
from ifguide.workspace import write_atomically

GENERATIONS = "perplexity of generations (reference model)"
Plot = tuple[str, Path]  # caption, SVG


def write_report(comparison: Comparison, directory: Path, *, title: str) -> Path:
    """Write the tables, the plots as PNG and SVG, and `report.html`, whose path is returned."""
    for name, content in (
        ("table.md", markdown(comparison)),
        ("table.tex", latex(comparison)),
        ("table.csv", comma_separated(comparison)),
    ):
        write_atomically(directory / name, content.encode("utf-8", errors="replace"))
    plots = [*frontiers(comparison, directory), *bars(comparison, directory), *relearning(comparison, directory)]
    write_page(directory / "report.html", comparison, title=title, plots=plots)
    return directory / "report.html"


def frontiers(comparison: Comparison, directory: Path) -> list[Plot]:
    """The behaviour against held-out perplexity, with steered rows beside it, and against that of generations.

    A plot needs two rows that have both: one point alone says nothing.
    """
    headline, share, plots = comparison.headline, comparison.wording.share, []
    for file, column, label in (
        ("frontier", comparison.utility, spoken(comparison.utility)),
        ("frontier_generations", comparison.generated, GENERATIONS),
    ):
        if column is None:
            continue
        having = [row for row in comparison.measured if headline in row.cells]
        points = {row.name: (row.cells[column], row.cells[headline]) for row in having if column in row.cells}
        if sum(math.isfinite(x.value + y.value) for x, y in points.values()) < 2:
            continue
        beside = {row.name: row.cells[headline] for row in having if row.name not in points and row.steered}
        draw = partial(
            plot_frontier, points, labels=(label, share), beside=beside, styles=row_styles(comparison)
        )  # fmt: skip
        plots.append((f"{capital(share)} against {label}", drawn(draw, directory / file)))
    return plots


def bars(comparison: Comparison, directory: Path) -> list[Plot]:
    """Shares by the classifier's categories, and by the subsets of the prompts, where there are several."""
    wording, headline, plots = comparison.wording, comparison.headline, []
    categories = {
        row.name: {wording.category(name): one for name, one in category_fractions(row.runs, headline.task).items()}
        for row in comparison.measured
    }
    subsets = {row.name: subset_fractions(row.runs, headline) for row in comparison.measured}
    for file, rows, caption, label in (
        ("categories", categories, "Share of samples by category", "share of samples"),
        ("subsets", subsets, f"{capital(wording.share)} by subset of the prompts", wording.share),
    ):
        if any(len(values) > 1 for values in rows.values()):
            draw = partial(plot_bars, rows, label=label, styles=row_styles(comparison))
            plots.append((caption, drawn(draw, directory / file)))
    return plots


def relearning(comparison: Comparison, directory: Path) -> list[Plot]:
    """Toxic fraction against tokens of toxic text, where that was measured."""
    share, plots = comparison.wording.share, []
    names = curve_names([run for row in comparison.measured for run in row.runs])
    for name in names:
        file = "relearning" if len(names) == 1 else f"relearning_{name}"
        found = {row.name: curve_of(row.runs, name) for row in comparison.measured}
        curves = {row: curve for row, curve in found.items() if curve is not None}
        if curves:
            draw = partial(
                plot_relearning, curves, label=share, reference=comparison.reference, styles=row_styles(comparison)
            )
            plots.append((f"{capital(share)} while a copy learns toxic text ({name})", drawn(draw, directory / file)))
    return plots


def drawn(draw: Callable[[Path], None], place: Path) -> Path:
    """Draw as PNG and as SVG; returns the SVG."""
    for suffix in ("png", "svg"):
        draw(place.with_suffix(f".{suffix}"))
    return place.with_suffix(".svg")


def row_styles(comparison: Comparison) -> Mapping[str, Style]:
    return styles_of([row.name for row in comparison.measured])


def spoken(column: Column | None) -> str:
    """A perplexity's header as an axis says it."""
    return "" if column is None else column.header.rstrip(" ↓↑")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
