"""How soon rows are toxic again: the curves that the utility `relearning` left, compared with the reference row's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from ifguide.report.gather import Run
from ifguide.report.plots import INK, Style, columns_of, height_with_legend, new_figure, plain, save_figure, styles_of
from ifguide.report.table import Column, Measurement
from ifguide.statistics import interval_over_seeds

SHARES = {"tokens_to_half": 0.5, "tokens_to_equal": 1.0}  # metric → share of the uncensored model's toxic fraction
BANDED = 6  # curves at most whose intervals are drawn: more would hide each other
CURVE_TOKENS, CURVE_FRACTION, LOW, HIGH = "curve_tokens", "curve_toxic_fraction", "curve_low", "curve_high"


@dataclass(frozen=True)
class Curve:
    """Toxic fraction after so many tokens of toxic text, a mean over seeds, with its interval: a number a point."""

    tokens: Sequence[float]
    fractions: Sequence[float]
    intervals: Sequence[Sequence[float]]


def curve_names(runs: Sequence[Run]) -> list[str]:
    """Names in the metrics of what left a curve."""
    found = [name for run in runs for name in run.metrics or {} if CURVE_TOKENS in _values(run, name)]
    return list(dict.fromkeys(found))


def curve_of(runs: Sequence[Run], name: str) -> Curve | None:
    """The mean curve of a row's runs; None where one has none, or one over other tokens."""
    found = [_values(run, name) for run in runs]
    if not found or CURVE_TOKENS not in found[0]:
        return None
    if any(values.get(CURVE_TOKENS) != found[0][CURVE_TOKENS] for values in found):
        return None
    intervals = []
    for place in range(len(found[0][CURVE_TOKENS])):
        own = [(values[LOW][place], values[HIGH][place]) for values in found]
        means = [values[CURVE_FRACTION][place] for values in found]
        intervals.append(own[0] if len(own) == 1 else interval_over_seeds(means, own))
    means_P = np.mean([values[CURVE_FRACTION] for values in found], axis=0)
    return Curve(found[0][CURVE_TOKENS], means_P.tolist(), intervals)


def tokens_until(curve: Curve, level: float) -> Measurement:
    """Tokens until the fraction first reaches a level, on straight lines between the points.

    Where it never does, that is more than all the tokens of the curve: the value is their number, the interval goes
    from there to infinity.
    """
    points = list(zip(curve.tokens, curve.fractions, strict=True))
    if points[0][1] >= level:
        return Measurement(float(points[0][0]))
    for (before, lower), (after, higher) in pairwise(points):
        if higher >= level:
            return Measurement(before + (after - before) * (level - lower) / (higher - lower))
    return Measurement(float(points[-1][0]), (float(points[-1][0]), math.inf))


def relearning_columns(runs: Sequence[Run]) -> list[Column]:
    """Two columns for every curve: they are no merit by themselves, as a broken model learns slowly too."""
    return [
        Column(f"{name}: {metric}".replace("_", " "), name, "all", metric, decimals=0)
        for name in curve_names(runs)
        for metric in SHARES
    ]


def tokens_to_relearn(
    runs: Sequence[Run], reference: Sequence[Run], columns: Sequence[Column]
) -> dict[Column, Measurement]:
    """Tokens until a row's toxic fraction is half of, and equal to, the reference's own, before it learned any.

    Args:
        runs: of the row.
        reference: runs of the row it is compared with; without any, nothing is known.
        columns: see `relearning_columns`.
    """
    found = {}
    for column in columns:
        curve, uncensored = curve_of(runs, column.task), curve_of(reference, column.task)
        if curve is not None and uncensored is not None and uncensored.fractions[0] > 0:
            found[column] = tokens_until(curve, SHARES[column.metric] * uncensored.fractions[0])
    return found


def plot_relearning(
    curves: Mapping[str, Curve], path: Path, *, label: str, reference: str | None, styles: Mapping[str, Style] | None
) -> None:
    """Draw each row's curve, with its interval where there are few, and the reference's own level, with half of it.

    Args:
        curves: row → curve.
        path: of a PNG or SVG.
        label: of the axis of fractions.
        reference: the row whose first point is the level; None: no level.
        styles: row → how it looks; None: by its place.

    Raises:
        ValueError: there is no curve.
    """
    if not curves:
        raise ValueError("no curve to plot: measure +utility@utilities.relearning=relearning of one row at least")
    styles = styles or styles_of(list(curves))
    figure = new_figure(width=8, height=height_with_legend(curves, 5.0))
    axes = figure.subplots()
    for name, curve in curves.items():
        style = styles[name]
        looks: dict[str, Any] = {"color": style.colour, "marker": style.marker, "label": plain(name)}
        axes.plot(curve.tokens, curve.fractions, markeredgecolor=INK, markeredgewidth=0.4, clip_on=False, **looks)
        if len(curves) <= BANDED:
            lows, highs = zip(*curve.intervals, strict=True)
            axes.fill_between(curve.tokens, lows, highs, color=style.colour, alpha=0.15, linewidth=0)
    if reference is not None and reference in curves:
        level = curves[reference].fractions[0]
        for share, text in ((1.0, f"{plain(reference)} before"), (0.5, "half of it")):
            axes.axhline(share * level, color=INK, linestyle="--", linewidth=1)
            axes.annotate(text, (0, share * level), (2, 3), textcoords="offset points", fontsize=9, color=INK)
    axes.set_xscale("symlog", linthresh=min(curve.tokens[1] for curve in curves.values()), linscale=0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("tokens of toxic text learned (right is deeper)")
    axes.set_ylabel(plain(label))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns_of(curves))
    save_figure(figure, path)


def _values(run: Run, name: str) -> Mapping[str, Any]:
    return ((run.metrics or {}).get(name) or {}).get("all") or {}
