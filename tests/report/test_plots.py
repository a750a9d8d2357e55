import os
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest

from ifguide.report import frontier as frontier_module
from ifguide.report import plots
from ifguide.report.frontier import frontier, plot_frontier
from ifguide.report.plots import plain, plot_bars, plot_scores, styles_of
from ifguide.report.table import Measurement

POINTS = {
    "none": (Measurement(12.0, (11.0, 13.0)), Measurement(0.1, (0.09, 0.12))),
    "costs $5 or $6": (Measurement(float("nan")), Measurement(0.1)),
    "ifguide": (Measurement(12.5), Measurement(0.02)),
}

LABELS = ("benign perplexity", "toxic fraction of samples")


def assert_png(path):
    """Walk the chunks and check their sums: a cut-off file fails."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, kinds = 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length]) == (zlib.crc32(body),)
        kinds.append(body[:4])
        at += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    save = plots.save_figure
    for module in (plots, frontier_module):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: (figures.append(figure), save(figure, path)))
    return figures


def test_only_what_was_measured_is_drawn(tmp_path, drawn):
    path = tmp_path / "report" / "frontier.png"
    plot_frontier(POINTS, path, labels=LABELS)
    assert_png(path)
    assert os.listdir(path.parent) == ["frontier.png"]
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["none", "ifguide"]
    assert "costs" in axes.get_title(loc="left") and "ifguide" not in axes.get_title(loc="left")


def test_an_empty_plot_is_not_drawn(tmp_path):
    for points in ({}, {"none": POINTS["costs $5 or $6"]}):
        with pytest.raises(ValueError, match="no point to plot"):
            plot_frontier(points, tmp_path / "empty.png", labels=LABELS)
    assert not list(tmp_path.iterdir())


def test_steered_rows_stand_beside_the_frontier_in_their_own_colours(tmp_path, drawn):
    points = {name: POINTS[name] for name in ("none", "ifguide")}
    styles = styles_of(["none", "rad", "ifguide"])
    plot_frontier(
        points, tmp_path / "f.png", labels=LABELS, beside={"rad": Measurement(0.05, (0.03, 0.07))}, styles=styles
    )
    axes, panel = drawn[0].axes
    (mark,) = [line for line in panel.lines if line.get_marker() == styles["rad"].marker]
    assert mark.get_ydata()[0] == 0.05 and mark.get_color() == styles["rad"].colour
    assert [label.get_text() for label in panel.get_xticklabels()] == ["rad"] and panel.get_ylim() == axes.get_ylim()
    colours = {line.get_color() for line in axes.lines if line.get_marker() in "osD^vPXp" and line.get_marker()}
    assert {styles["none"].colour, styles["ifguide"].colour} <= colours and styles["rad"].colour not in colours
    (steps,) = [line for line in axes.lines if line.get_label() == "frontier"]
    bars = [collection.get_zorder() for collection in axes.collections]
    assert bars and steps.get_zorder() > max(bars), "the frontier is drawn over the bars"


def test_labels_of_crowded_points_do_not_overlap(tmp_path, drawn):
    points = {f"method_{i}": (Measurement(12.0 + i), Measurement(0.1 + 0.001 * i)) for i in range(5)}
    plot_frontier(points, tmp_path / "crowded.png", labels=LABELS)
    boxes = [text.get_window_extent() for text in drawn[0].axes[0].texts]
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_many_points_have_a_legend_of_distinct_marks(tmp_path, drawn):
    points = {f"m{i}": (Measurement(12.0 + i, (11.0, 30.0)), Measurement(0.01 * 2**i)) for i in range(9)}
    plot_frontier(points, tmp_path / "f.png", labels=LABELS)
    (axes,) = drawn[0].axes
    handles, names = axes.get_legend_handles_labels()
    marks = {(line.get_color(), line.get_marker()) for line in handles[:9]}
    assert names[:9] == list(points) and len(marks) == 9 and not axes.texts
    assert axes.get_yscale() == "log" and all(label.get_text() for label in axes.get_yticklabels())
    assert axes.get_legend().get_window_extent().x1 <= drawn[0].bbox.x1, "nothing is cut off"


def test_a_legend_of_long_names_leaves_the_points_their_place(tmp_path, drawn):
    names = [f"ifguide, objective.penalty=0.{i:02}8618788654, selection.limit=0.0199904156697" for i in range(10, 25)]
    points = {name: (Measurement(12.0 + i), Measurement(0.01 * 1.3**i)) for i, name in enumerate(names)}
    plot_frontier(points, tmp_path / "f.png", labels=LABELS)
    (axes,), whole = drawn[0].axes, drawn[0].bbox
    frame, legend = axes.get_window_extent(), axes.get_legend().get_window_extent()
    assert frame.width > 0.8 * whole.width and frame.height > 0.4 * whole.height
    assert legend.x1 <= whole.x1 and legend.y1 <= whole.y1


def test_histogram_counts_every_score_and_no_chunking_shows(tmp_path, drawn, monkeypatch):
    scores = np.random.default_rng(0).standard_t(2, size=(50, 40)).astype(np.float32)
    plot_scores(scores, 1.5, tmp_path / "whole.png")
    heights = drawn[0].axes[0].patches[0].get_data().values
    assert heights.sum() == scores.size
    edges = plots._bin_edges(scores, 1.5)
    monkeypatch.setattr(plots, "_bin_edges", lambda *_: edges)
    monkeypatch.setattr(plots, "PIECE", 300)
    plot_scores(scores, 1.5, tmp_path / "pieces.png")
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "pieces.png").read_bytes()


def test_annotated_tokens_are_a_density_of_their_own(tmp_path, drawn):
    scores = np.concatenate([np.random.default_rng(0).normal(size=900), np.full(100, 4.0)])
    plot_scores(scores, 3.9, tmp_path / "scores.png", annotated=scores == 4.0)
    assert_png(tmp_path / "scores.png")
    axes = drawn[0].axes[0]
    for outline in axes.patches:
        data = outline.get_data()
        assert np.sum(data.values * np.diff(data.edges)) == pytest.approx(1.0)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["benign tokens, n = 900", "toxic tokens (annotated), n = 100", "τ = 3.9, 10.00% of scores above"]


def test_nobody_annotated_and_constant_scores(tmp_path):
    plot_scores(np.zeros(5), 0.0, tmp_path / "flat.png", annotated=np.zeros(5, dtype=bool))
    assert_png(tmp_path / "flat.png")


@pytest.mark.parametrize(
    ("scores", "annotated", "message"),
    [
        (np.zeros(0), None, "no scores"),
        (np.array([0.0, np.nan]), None, "not finite"),
        (np.zeros(3), np.zeros(2, dtype=bool), "one flag a score"),
    ],
)
def test_mistakes_are_named(tmp_path, scores, annotated, message):
    with pytest.raises(ValueError, match=message):
        plot_scores(scores, 0.0, tmp_path / "x.png", annotated=annotated)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_plot_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "scores.png"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_scores(np.arange(9.0), 7.0, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["scores.png"]


def test_the_frontier_is_what_no_other_beats():
    points = [(12, 0.5), (13, 0.2), (13, 0.3), (14, 0.2), (15, 0.1), (12, 0.6)]
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]}
    assert frontier(points) == sorted(set(points) - beaten) == [(12, 0.5), (13, 0.2), (15, 0.1)]


def test_frontier_and_categories_as_png_and_svg(tmp_path, drawn):
    points = {"a $x$": (Measurement(12.0, (11.0, 13.0)), Measurement(0.5, (0.4, 0.6))),
              "b <&>": (Measurement(13.0), Measurement(0.2))}  # fmt: skip
    shares = {"a": {"toxicity": Measurement(0.5, (0.4, 0.6)), "identity_attack": Measurement(0.1)}, "b": {}}
    for name in ("one", "two"):
        plot_frontier({**points, "c": POINTS["costs $5 or $6"]}, tmp_path / name / "f.svg", labels=LABELS)
        plot_bars(shares, tmp_path / name / "c.svg", label="share of samples")
    for name in ("f.svg", "c.svg"):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert first == second
        assert ElementTree.fromstring(first).tag.endswith("svg")
    assert (
        "a $x$" in (tmp_path / "one" / "f.svg").read_text()
        and "b &lt;&amp;&gt;" in (tmp_path / "one/f.svg").read_text()
    )
    assert "c" in drawn[0].axes[0].get_title(loc="left")
    assert [round(bar.get_width(), 6) for bar in drawn[1].axes[0].patches] == [0.5, 0.1]
    plot_frontier(points, tmp_path / "f.png", labels=LABELS)
    assert_png(tmp_path / "f.png")
    with pytest.raises(ValueError, match="no bars"):
        plot_bars({"a": {}}, tmp_path / "none.png", label="share")


def test_same_input_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        plot_frontier(POINTS, tmp_path / name, labels=LABELS)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_rows_of_a_search_are_told_apart_by_short_labels():
    row = "ifguide, objective.penalty=0.378618788654, selection.limit=0.0199904156697"
    assert plain(row) == "ifguide, penalty=0.379, limit=0.02"
    assert plain("ifguide, objective.penalty=0.3786") == "ifguide, objective.penalty=0.3786" and plain("$") == r"\$"
