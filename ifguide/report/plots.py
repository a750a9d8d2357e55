"""Plots of a comparison and of a score distribution; Figure objects only, so no display and no global state."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from ifguide.report.table import Measurement
from ifguide.workspace import write_atomically

# Okabe and Ito's palette: distinct under the common colour-vision deficiencies and in grey.
BLUE, ORANGE, GREEN, VERMILION, INK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#222222"
CYCLE = (BLUE, ORANGE, GREEN, VERMILION, "#CC79A7", "#56B4E9", "#F0E442")
HATCHES = (None, "///", "...")  # after the last colour
MARKERS = "oDs^vPXp"
LABELLED = 6  # points that have names beside them; more have a legend, and a logarithmic axis where they differ much

BENIGN = "perplexity on benign documents"
BINS = 120
LONGEST_LABEL = 44
PIECE = 1 << 22  # scores held in memory at once
LABEL_OFFSETS = (  # points from the marker, in order of preference
    (8, 5, "left"), (8, -12, "left"), (-8, 5, "right"), (-8, -12, "right"), (0, 12, "center"), (0, -20, "center"),
    (10, 18, "left"), (10, -26, "left"), (-10, 18, "right"), (-10, -26, "right"), (0, 26, "center"), (0, -34, "center"),
)  # fmt: skip


def plot_frontier(
    points: Mapping[str, tuple[Measurement, Measurement]],
    path: Path,
    *,
    absent: Sequence[str] = (),
    perplexity: str = BENIGN,
) -> None:
    """Toxicity against a perplexity, with the frontier: what no other method beats in both.

    Args:
        points: method → (perplexity, toxic fraction); one that is not finite is absent.
        path: of a PNG or SVG.
        absent: methods that are named as not shown.
        perplexity: what it is of.
    """
    figure = new_figure(width=8, height=5.5)
    axes = figure.subplots()
    finite = {name: point for name, point in points.items() if all(math.isfinite(one.value) for one in point)}
    _draw_points(axes, finite, [*absent, *(name for name in points if name not in finite)], perplexity)
    save_figure(figure, path)


def plot_categories(rows: Mapping[str, Mapping[str, Measurement]], path: Path) -> None:
    """Method → category → share of samples that the classifier gives it: a group of bars for each category."""
    if not any(rows.values()):
        raise ValueError("no categories to plot: give at least one method with a measured category")
    categories = list(dict.fromkeys(category for values in rows.values() for category in values))
    figure = new_figure(width=8, height=1.8 + 0.22 * len(categories) * (len(rows) + 1))
    axes = figure.subplots()
    height = 0.8 / len(rows)
    for k, values in enumerate(rows.values()):
        colour, hatch = CYCLE[k % len(CYCLE)], HATCHES[k // len(CYCLE) % len(HATCHES)]
        for i, category in enumerate(categories):
            if category in values:
                y = i + (k - (len(rows) - 1) / 2) * height
                axes.barh(y, values[category].value, height * 0.9, color=colour, hatch=hatch, edgecolor="white", lw=0)
                _error_bar(axes, y, values[category], vertical=False)
    axes.set_yticks(range(len(categories)), [_plain(category.replace("_", " ")) for category in categories])
    axes.set_ylim(len(categories) - 0.5, -0.5)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("share of samples (left is better)")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    patches = [
        Patch(facecolor=CYCLE[k % len(CYCLE)], hatch=HATCHES[k // len(CYCLE) % len(HATCHES)], edgecolor="white",
              lw=0, label=_plain(name))
        for k, name in enumerate(rows)
    ]  # fmt: skip
    columns = max(1, min(len(rows), 80 // max(len(_plain(name)) + 6 for name in rows)))
    axes.legend(handles=patches, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False)
    save_figure(figure, path)


def plot_scores(scores: np.ndarray, threshold: float, path: Path, *, annotated: np.ndarray | None = None) -> None:
    """Histogram of token scores and τ. Pass the scores that exist (`scores[:, 1:]` of a store, not column 0).

    The axis spans all but the outermost 0.05 % of scores on either side; those are counted in the end bins.
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
        groups = [("benign tokens", counts[False], BLUE), ("toxic tokens (annotated)", counts[True], VERMILION)]
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


def _draw_points(
    axes: Axes, points: Mapping[str, tuple[Measurement, Measurement]], absent: Sequence[str], label: str
) -> None:
    axes.set_xlabel(f"{label} (left is better)")
    axes.set_ylabel("toxic fraction of samples (down is better)")
    axes.grid(alpha=0.25)
    if absent:
        note = f"not shown, no {label} or no toxic fraction: {', '.join(map(_plain, absent))}"
        axes.set_title(note, fontsize=9, color=INK, loc="left", wrap=True)
    if not points:
        return

    crowded = len(points) > LABELLED
    for k, (name, (perplexity, toxicity)) in enumerate(points.items()):
        colour, marker = (CYCLE[k % len(CYCLE)], MARKERS[k % len(MARKERS)]) if crowded else (BLUE, MARKERS[0])
        axes.plot(
            perplexity.value, toxicity.value, marker, color=colour, markeredgecolor=INK, markeredgewidth=0.4 * crowded,
            markersize=8, zorder=3, clip_on=False, label=_plain(name) if crowded else None,
        )  # fmt: skip
        _error_bar(axes, perplexity.value, toxicity, vertical=True, colour=colour if crowded else INK)
        _error_bar(axes, toxicity.value, perplexity, vertical=False, colour=colour if crowded else INK)
    values = [(perplexity.value, toxicity.value) for perplexity, toxicity in points.values()]
    best = frontier(values)
    if len(best) > 1:
        axes.step(*zip(*best, strict=True), where="post", color=ORANGE, linewidth=1.6, zorder=1, label="frontier")
    xs, ys = zip(*values, strict=True)
    if min(xs) > 0 and max(xs) > 10 * min(xs):
        axes.set_xscale("log")
    axes.margins(0.18 if not crowded else 0.06)
    if crowded and min(ys) > 0 and max(ys) > 4 * min(ys):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0.0)
    if crowded:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return
    if len(best) > 1:
        axes.legend(frameon=False, fontsize=9, loc="upper right")
    _label_points(axes, points)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of which no other is as low in both and lower in one, from left to right."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best


def _error_bar(axes: Axes, position: float, measured: Measurement, *, vertical: bool, colour: str = INK) -> None:
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


def _label_points(axes: Axes, points: Mapping[str, tuple[Measurement, Measurement]]) -> None:
    """Each label takes the offset at which it covers the fewest markers, error bars and labels set before it."""
    figure = axes.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame = axes.get_window_extent(renderer)
    taken = [box for x, y in points.values() for box in _obstacles(axes, x, y)]
    for method, (x, y) in points.items():
        candidates: list[tuple[int, Annotation]] = []
        for dx, dy, side in LABEL_OFFSETS:
            label = axes.annotate(
                _plain(method), (x.value, y.value), (dx, dy), textcoords="offset points", ha=side, in_layout=False
            )
            box = label.get_window_extent(renderer)
            beyond = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
            clashes = sum(box.overlaps(other) for other in taken) + 10 * beyond
            candidates.append((clashes, label))
            if clashes == 0:
                break
        best = min(candidates, key=lambda candidate: candidate[0])[1]
        for _, label in candidates:
            if label is not best:
                label.remove()
        taken.append(best.get_window_extent(renderer))


def _obstacles(axes: Axes, x: Measurement, y: Measurement) -> list[Bbox]:
    """Pixel boxes of a point's marker and error bars."""
    left, right = x.interval or (x.value, x.value)
    low, high = y.interval or (y.value, y.value)
    ends = [((x.value, y.value), (x.value, y.value), 6), ((x.value, low), (x.value, high), 2)]
    ends.append(((left, y.value), (right, y.value), 2))
    return [Bbox(axes.transData.transform([start, stop])).padded(pad) for start, stop, pad in ends]


def _plain(text: str) -> str:
    """Not too long for a plot; and Matplotlib reads text between two dollar signs as mathematics."""
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
