"""Plots of a comparison and of a score distribution; Figure objects only, so no display and no global state."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from ifguide.report.table import Measurement
from ifguide.workspace import write_atomically

# Okabe and Ito's palette: distinct under the common colour-vision deficiencies and in grey.
BLUE, ORANGE, GREEN, VERMILION, INK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#222222"
CYCLE = (BLUE, ORANGE, GREEN, VERMILION, "#CC79A7", "#56B4E9", "#F0E442")
HATCHES = (None, "///", "...")  # after the last colour
MARKERS = "oDs^vPXp"
BINS = 120
LONGEST_LABEL = 44
LEGEND = 90  # characters of a line
PIECE = 1 << 22  # scores held in memory at once


@dataclass(frozen=True)
class Style:
    """How a row looks in every plot of a report."""

    colour: str
    marker: str
    hatch: str | None


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """Row → a style of its own: colours first, then hatches and markers."""
    return {
        name: Style(CYCLE[k % len(CYCLE)], MARKERS[k % len(MARKERS)], HATCHES[k // len(CYCLE) % len(HATCHES)])
        for k, name in enumerate(names)
    }


def columns_of(names: Iterable[str]) -> int:
    """Columns of a legend that are no wider together than a plot."""
    lengths = [len(plain(name)) + 6 for name in names]
    return max(1, min(len(lengths), LEGEND // max(lengths)))


def height_with_legend(names: Collection[str], least: float) -> float:
    """Inches of a figure whose legend stands above its plot, such that many names leave that its place."""
    return max(least, 3.9 + 0.2 * math.ceil(len(names) / columns_of(names)))


def plot_bars(
    rows: Mapping[str, Mapping[str, Measurement]], path: Path, *, label: str, styles: Mapping[str, Style] | None = None
) -> None:
    """Row → group → share: a group of bars for each category of a classifier, or subset of the prompts.

    Args:
        rows: the shares.
        path: of a PNG or SVG.
        label: of the axis.
        styles: row → how it looks; None: by its place.
    """
    if not any(rows.values()):
        raise ValueError("no bars to plot: give at least one row with a measured share")
    styles = styles or styles_of(list(rows))
    groups = list(dict.fromkeys(group for values in rows.values() for group in values))
    figure = new_figure(width=8, height=1.8 + 0.22 * len(groups) * (len(rows) + 1))
    axes = figure.subplots()
    height = 0.8 / len(rows)
    for k, (name, values) in enumerate(rows.items()):
        style = styles[name]
        for i, group in enumerate(groups):
            if group in values:
                y = i + (k - (len(rows) - 1) / 2) * height
                looks: dict[str, Any] = {"color": style.colour, "hatch": style.hatch, "edgecolor": "white", "lw": 0}
                axes.barh(y, values[group].value, height * 0.9, **looks)
                error_bar(axes, y, values[group], vertical=False)
    axes.set_yticks(range(len(groups)), [plain(group) for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(left=0.0)
    axes.set_xlabel(f"{plain(label)} (left is better)")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    patches = [
        Patch(facecolor=styles[name].colour, hatch=styles[name].hatch, edgecolor="white", lw=0, label=plain(name))
        for name in rows
    ]
    axes.legend(handles=patches, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns_of(rows), frameon=False)
    save_figure(figure, path)


def plot_scores(
    scores: np.ndarray,
    threshold: float,
    path: Path,
    *,
    annotated: np.ndarray | None = None,
    labels: tuple[str, str] = ("benign", "toxic"),
) -> None:
    """Histogram of token scores and τ. Pass the scores that exist (`scores[:, 1:]` of a store, not column 0).

    The axis spans all but the outermost 0.05 % of scores on either side; those are counted in the end bins.
    `labels` are what tokens that are not annotated, and that are, are called.
    """
    if annotated is not None and np.shape(annotated) != np.shape(scores):
        raise ValueError(f"annotated has shape {np.shape(annotated)}, scores {np.shape(scores)}: one flag a score")
    if np.size(scores) == 0:
        raise ValueError("no scores to plot")

    edges = _bin_edges(scores, threshold)
    counts = {False: np.zeros(BINS, dtype=np.int64), True: np.zeros(BINS, dtype=np.int64)}
    above = 0
    for piece, toxic in _pieces(scores, annotated):
        above += int((piece > threshold).sum())
        inside = np.clip(piece, edges[0], edges[-1])
        for flag in counts:
            counts[flag] += np.histogram(inside[toxic == flag], bins=edges)[0]

    figure = new_figure(width=9, height=5)
    axes = figure.subplots()
    if annotated is None:
        groups = [("all tokens", counts[False], BLUE)]
    else:
        groups = [
            (f"{labels[0]} tokens", counts[False], BLUE),
            (f"{labels[1]} tokens (annotated)", counts[True], VERMILION),
        ]
    for label, count, colour in groups:
        total = int(count.sum())
        heights = count if annotated is None else count / (max(total, 1) * np.diff(edges))
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(heights, edges, color=colour, linewidth=1.4, label=f"{label}, n = {total:,}")
    share = above / np.size(scores)
    axes.axvline(threshold, color=INK, linestyle="--", label=f"τ = {threshold:.4g}, {share:.2%} of scores above")
    axes.set_yscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("token score (end bins hold everything beyond)")
    axes.set_ylabel("tokens" if annotated is None else "density within each group")
    axes.legend(frameon=False)
    save_figure(figure, path)


def _pieces(scores: np.ndarray, annotated: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A few million scores at a time with their flags: a store can be larger than memory."""
    rows = max(1, PIECE * len(scores) // np.size(scores))
    for start in range(0, len(scores), rows):
        piece = np.asarray(scores[start : start + rows], dtype=np.float64).ravel()
        broken = int((~np.isfinite(piece)).sum())
        if broken:
            raise ValueError(f"{broken} scores from row {start} on are not finite: score again before plotting them")
        if annotated is None:
            yield piece, np.zeros(piece.shape, dtype=bool)
        else:
            yield piece, np.asarray(annotated[start : start + rows], dtype=bool).ravel()


def _bin_edges(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Equal bins over the bulk of the scores and the threshold; rows are sampled where there are many."""
    sample = np.asarray(scores[:: 1 + np.size(scores) // PIECE], dtype=np.float64)
    low, high = np.nanquantile(sample, [0.0005, 0.9995])
    low, high = min(low, threshold), max(high, threshold)
    margin = 0.03 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, BINS + 1)


def error_bar(axes: Axes, position: float, measured: Measurement, *, vertical: bool, colour: str = INK) -> None:
    """Drawn from its middle: a percentile interval need not contain the value itself."""
    if measured.interval is None:
        return
    low, high = measured.interval
    middle, half = (low + high) / 2, abs(high - low) / 2
    style: dict[str, Any] = {"fmt": "none", "ecolor": colour, "elinewidth": 1.2, "capsize": 3}
    if vertical:
        axes.errorbar(position, middle, yerr=half, **style)
    else:
        axes.errorbar(middle, position, xerr=half, **style)


def plain(text: str) -> str:
    """Not too long for a plot: of a search's rows, settings by their last names, and three digits of numbers. And
    Matplotlib reads text between two dollar signs as mathematics."""
    if len(text) > LONGEST_LABEL:
        text = re.sub(r"[\w@.]+\.(\w+=)", r"\1", text)
        text = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.3g}", text)
    text = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
    return text.replace("$", r"\$")


def new_figure(*, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, or an SVG with its text as text; the same figure gives the same bytes."""
    image = io.BytesIO()
    if Path(path).suffix == ".svg":
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": Path(path).stem}):
            figure.savefig(image, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    else:
        figure.savefig(image, format="png", metadata={"Software": None})
    write_atomically(Path(path), image.getvalue())
