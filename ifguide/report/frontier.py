"""A behaviour against perplexity, a point a row, with the frontier; rows without that perplexity stand beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from ifguide.report.plots import (
    INK,
    Style,
    columns_of,
    error_bar,
    height_with_legend,
    new_figure,
    plain,
    save_figure,
    styles_of,
)
from ifguide.report.table import Measurement

LABELLED = 6  # points that have names beside them; more have a legend, and a logarithmic axis where they differ much
LABEL_OFFSETS = (  # points from the marker, in order of preference
    (8, 5, "left"), (8, -12, "left"), (-8, 5, "right"), (-8, -12, "right"), (0, 12, "center"), (0, -20, "center"),
    (10, 18, "left"), (10, -26, "left"), (-10, 18, "right"), (-10, -26, "right"), (0, 26, "center"), (0, -34, "center"),
)  # fmt: skip
Points = Mapping[str, tuple[Measurement, Measurement]]


def plot_frontier(
    points: Points,
    path: Path,
    *,
    labels: tuple[str, str],
    beside: Mapping[str, Measurement] | None = None,
    styles: Mapping[str, Style] | None = None,
) -> None:
    """Draw the points, and over them the frontier: what no other row beats in both.

    Args:
        points: row → (perplexity, share); one that is not finite is named as not shown.
        path: of a PNG or SVG.
        labels: what the perplexity and the share are of.
        beside: row → share, of rows that have no such perplexity because they are steered: a panel of their own.
        styles: row → how it looks; None: by its place.

    Raises:
        ValueError: no point is finite.
    """
    finite = {name: point for name, point in points.items() if all(math.isfinite(one.value) for one in point)}
    if not finite:
        raise ValueError("no point to plot: give at least one row with a finite perplexity and share")
    beside = beside or {}
    styles = styles or styles_of([*points, *beside])
    width = 0.9 + 0.55 * len(beside)
    height = height_with_legend(finite, 5.5) if len(finite) > LABELLED else 5.5
    figure = new_figure(width=8 + width * bool(beside), height=height)
    if beside:
        axes, panel = figure.subplots(1, 2, sharey=True, width_ratios=(8 - width / 2, width))
        _draw_beside(panel, beside, styles)
    else:
        axes = figure.subplots()
    _draw_points(axes, finite, [name for name in points if name not in finite], labels, styles)
    save_figure(figure, path)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of which no other is as low in both and lower in one, from left to right."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best


def _draw_points(
    axes: Axes, points: Points, absent: Sequence[str], labels: tuple[str, str], styles: Mapping[str, Style]
) -> None:
    axes.set_xlabel(f"{plain(labels[0])} (left is better)")
    axes.set_ylabel(f"{plain(labels[1])} (down is better)")
    axes.grid(alpha=0.25)
    if absent:
        note = f"not shown, not finite: {', '.join(map(plain, absent))}"
        axes.set_title(note, fontsize=9, color=INK, loc="left", wrap=True)

    crowded = len(points) > LABELLED
    for name, (perplexity, share) in points.items():
        _draw_point(axes, name, perplexity.value, share, styles[name], label=plain(name) if crowded else None)
        error_bar(axes, share.value, perplexity, vertical=False, colour=styles[name].colour)
    values = [(perplexity.value, share.value) for perplexity, share in points.values()]
    best = frontier(values)
    if len(best) > 1:
        axes.step(*zip(*best, strict=True), where="post", color=INK, lw=1.6, ls="--", zorder=4, label="frontier")
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
        axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0.0, 1.02), ncols=columns_of(points))
        return
    if len(best) > 1:
        axes.legend(frameon=False, fontsize=9, loc="upper right")
    _label_points(axes, points)


def _draw_beside(axes: Axes, beside: Mapping[str, Measurement], styles: Mapping[str, Style]) -> None:
    for place, (name, share) in enumerate(beside.items()):
        _draw_point(axes, name, place, share, styles[name], label=None)
    axes.set_xticks(range(len(beside)), [plain(name) for name in beside], rotation=60, ha="right", fontsize=9)
    axes.set_xlim(-0.7, len(beside) - 0.3)
    axes.set_title("steered", fontsize=9, color=INK)
    axes.tick_params(left=False, labelleft=False)
    axes.grid(axis="y", alpha=0.25)


def _draw_point(axes: Axes, name: str, x: float, share: Measurement, style: Style, *, label: str | None) -> None:
    axes.plot(
        x, share.value, style.marker, color=style.colour, markeredgecolor=INK, markeredgewidth=0.4, markersize=8,
        zorder=5, clip_on=False, label=label,
    )  # fmt: skip
    error_bar(axes, x, share, vertical=True, colour=style.colour)


def _label_points(axes: Axes, points: Points) -> None:
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
                plain(method), (x.value, y.value), (dx, dy), textcoords="offset points", ha=side, in_layout=False
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
