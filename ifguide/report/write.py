"""A comparison on disk: tables, plots and the page."""

from __future__ import annotations

from pathlib import Path

from ifguide.report.formats import comma_separated, latex, markdown
from ifguide.report.page import write_page
from ifguide.report.plots import BENIGN, plot_categories, plot_frontier
from ifguide.report.rows import Comparison
from ifguide.report.table import COLUMNS, HEADLINE
from ifguide.report.values import category_fractions
from ifguide.workspace import write_atomically

PERPLEXITY = next(column for column in COLUMNS if (column.task, column.subset) == ("perplexity", "benign"))
WRITTEN = next(column for column in COLUMNS if column.metric == "generation_perplexity")
FRONTIERS = (  # file, column, what it is
    ("frontier", PERPLEXITY, BENIGN),
    ("frontier_generations", WRITTEN, "perplexity of generations under the reference model"),
)


def write_report(comparison: Comparison, directory: Path, *, title: str) -> Path:
    """Write the tables, the plots as PNG and SVG, and `report.html`, whose path is returned."""
    for name, content in (
        ("table.md", markdown(comparison)),
        ("table.tex", latex(comparison)),
        ("table.csv", comma_separated(comparison)),
    ):
        write_atomically(directory / name, content.encode("utf-8", errors="replace"))
    plots = []
    for file, column, label in FRONTIERS:
        both = {row.name: row.cells for row in comparison.measured if {HEADLINE, column} <= row.cells.keys()}
        if len(both) > 1:  # one point alone says nothing
            absent = [row.name for row in comparison.measured if row.name not in both]
            points = {name: (cells[column], cells[HEADLINE]) for name, cells in both.items()}
            for suffix in ("png", "svg"):
                plot_frontier(points, directory / f"{file}.{suffix}", absent=absent, perplexity=label)
            plots.append((f"Toxicity against {label}", directory / f"{file}.svg"))
    fractions = {row.name: category_fractions(row.runs) for row in comparison.measured}
    if any(len(categories) > 1 for categories in fractions.values()):
        for suffix in ("png", "svg"):
            plot_categories(fractions, directory / f"categories.{suffix}")
        plots.append(("Share of samples by category", directory / "categories.svg"))
    write_page(directory / "report.html", comparison, title=title, plots=plots)
    return directory / "report.html"
