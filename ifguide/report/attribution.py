"""Figures of attribution quality: precision–recall curves, overlap of masks, cost against precision."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifguide.report.plots import BLUE, GREEN, INK, ORANGE, VERMILION, new_figure, save_figure

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", "#56B4E9", INK)
DASHES = ("-", "--", ":", "-.")
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
Estimate = tuple[float, float, float, float]  # x, value, and its interval


def plot_precision_recall(curves: Mapping[str, Curve], base_rate: float, path: Path, *, title: str = "") -> None:
    """Recall against precision, name → (recall, precision) of the same tokens."""
    figure = new_figure(width=9, height=5.5)
    axes = figure.subplots()
    for index, (name, (recall, precision)) in enumerate(curves.items()):
        # equal steps of log recall: the interesting end is that of few tokens
        places = np.unique(np.searchsorted(recall, np.geomspace(1e-3, 1, 400)).clip(max=len(recall) - 1))
        places = places[places >= 50]
        style = DASHES[index // len(COLOURS) % len(DASHES)]
        axes.plot(
            recall[places], precision[places], style, color=COLOURS[index % len(COLOURS)], label=_plain(name), lw=1.6
        )
    axes.axhline(base_rate, color=INK, lw=0.8, ls=":")
    axes.annotate("chance", (1.0, base_rate), (0, 3), textcoords="offset points", ha="right", fontsize=8)
    axes.set_xlabel("recall of tokens that people marked")
    axes.set_ylabel("precision")
    axes.set_ylim(0, None)
    axes.grid(alpha=0.25)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def plot_mask_overlap(names: Sequence[str], jaccard: NDArray[np.float64], path: Path) -> None:
    """Jaccard index of every two masks, [n, n]."""
    figure = new_figure(width=3 + 0.75 * len(names), height=2 + 0.6 * len(names))
    axes = figure.subplots()
    axes.imshow(jaccard, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            value = jaccard[row, column]
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else INK)
    labels = [_plain(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_title("overlap of masks (Jaccard index)", loc="left", fontsize=10)
    save_figure(figure, path)


def plot_cost(points: Mapping[str, tuple[float, float, Sequence[float]]], path: Path, *, label: str) -> None:
    """Share of the blocks scored exactly against a metric: name → (share, value, interval)."""
    figure = new_figure(width=9, height=5)
    axes = figure.subplots()
    for index, (name, (cost, value, (low, high))) in enumerate(points.items()):
        colour = COLOURS[index % len(COLOURS)]
        middle, half = (low + high) / 2, (high - low) / 2
        axes.errorbar(cost, middle, yerr=half, fmt="none", ecolor=colour, capsize=3)
        axes.plot(cost, value, "o", color=colour)
        axes.annotate(_plain(name), (cost, value), (7, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("share of blocks scored exactly")
    axes.set_ylabel(label)
    axes.margins(0.15)
    axes.grid(alpha=0.25)
    save_figure(figure, path)


def plot_trade_off(
    curves: Mapping[str, Sequence[tuple[str, Sequence[float], Sequence[float]]]],
    path: Path,
    *,
    labels: tuple[str, str],
    log: bool = False,
) -> None:
    """Points of a trade-off joined in their order: name → (label, x of every seed, y of every seed).

    Args:
        curves: see above.
        path: of a PNG or SVG.
        labels: of the axes.
        log: logarithmic axes, that of x from 1 on.
    """
    figure = new_figure(width=9, height=5)
    axes = figure.subplots()
    for index, (name, points) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        x, y = [float(np.mean(xs)) for _, xs, _ in points], [float(np.mean(ys)) for *_, ys in points]
        axes.plot(x, y, marker="o", color=colour, ls=DASHES[index % len(DASHES)], lw=1.6, label=_plain(name))
        for (label, xs, ys), a, b in zip(points, x, y, strict=True):
            axes.plot(xs, ys, ".", color=colour, alpha=0.5)
            axes.annotate(label, (a, b), (6, 4), textcoords="offset points", fontsize=8, color=colour)
    if log:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.margins(x=0.08)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def plot_intervals(
    curves: Mapping[str, Sequence[Estimate]],
    path: Path,
    *,
    labels: tuple[str, str],
    log: bool = False,
    reference: float | None = None,
) -> None:
    """Estimates with their intervals, those of a curve joined; curves are set apart a little so that bars can be told.

    Args:
        curves: name → (x, value, low, high) each.
        path: of a PNG or SVG.
        labels: of the axes.
        log: a logarithmic axis of x.
        reference: a value that is drawn as a line.
    """
    figure = new_figure(width=9, height=5)
    axes = figure.subplots()
    for index, (name, points) in enumerate(curves.items()):
        x, value, low, high = np.array(points, dtype=np.float64).T
        apart = 0.05 * (index - (len(curves) - 1) / 2)
        axes.errorbar(
            x * np.exp(apart) if log else x + apart, value,
            yerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)], marker="o", capsize=3, lw=1.6,
            color=COLOURS[index % len(COLOURS)], ls=DASHES[index % len(DASHES)], label=_plain(name),
        )  # fmt: skip
    if reference is not None:
        axes.axhline(reference, color=INK, lw=0.8, ls=":")
    places = sorted({point[0] for points in curves.values() for point in points})
    if log:
        axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.minorticks_off()
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # bars fill the axes
    save_figure(figure, path)


def _plain(name: str) -> str:
    return name.replace("`", "")
