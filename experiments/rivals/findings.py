"""What a comparison says, in words: against the uncensored model, and where IF-Guide loses."""

from collections.abc import Mapping

from ifguide.report.formats import format_difference
from ifguide.report.rows import Comparison, Row
from ifguide.report.table import COLUMNS, HEADLINE, Column
from ifguide.report.write import PERPLEXITY, WRITTEN

DISTINCT = ("toxicity", "all", "distinct_2")
SECONDS = next(column for column in COLUMNS if column.task == "cost")
MARGIN = 1.01  # of perplexity, up to which a row is said to write as fluently as IF-Guide
CHEAPER = 0.5  # of its seconds: what else a machine does can make less of a difference than that


def value(row: Row, column: Column) -> float | None:
    measured = row.cells.get(column)
    return None if measured is None else measured.value


def verdict(row: Row) -> str:
    """Whether a row's difference is told apart from nothing."""
    difference = row.differences[HEADLINE]
    text = f"{format_difference(difference, 3)}"
    if difference.interval is None:
        return f"{text}, without an interval"
    low, high = difference.interval
    return f"{text}, {'which includes' if low <= 0 <= high else 'which excludes'} 0"


def against_none(comparison: Comparison) -> str:
    """Each rival's paired difference from the uncensored model."""
    rows = [row for row in comparison.measured if HEADLINE in row.differences]
    if not rows:
        return ""
    lines = [f"- {row.name}: {verdict(row)}" for row in rows]
    return "Toxic fraction against the uncensored model, paired by prompt and seed:\n\n" + "\n".join(lines) + "\n"


def varied(comparison: Comparison) -> str:
    """How varied the texts of rows are whose only perplexity is that of generations, which dull text lowers."""
    (column,) = (one for one in comparison.every_column if (one.task, one.subset, one.metric) == DISTINCT)
    rows = [row for row in comparison.measured if PERPLEXITY not in row.cells or row.name in ("none", "ifguide")]
    if all(PERPLEXITY in row.cells for row in rows):
        return ""
    return f"Distinct-2 of generations: {', '.join(f'{row.name} {value(row, column):.3f}' for row in rows)}.\n"


def fluency_against(row: Row, ours: Row, steered: Mapping[str, float | None]) -> tuple[float | None, str]:
    """Ratio of a row's perplexity to ours, and of what: benign documents where both have it, else generations."""
    if row.name in steered:
        return steered[row.name], "perplexity of generations through its steering"
    for column, name in ((PERPLEXITY, "benign perplexity"), (WRITTEN, "perplexity of generations")):
        theirs, mine = value(row, column), value(ours, column)
        if theirs is not None and mine is not None:
            return theirs / mine, name
    return None, "perplexity"


def against_ifguide(comparison: Comparison, steered: Mapping[str, float | None]) -> str:
    """Where IF-Guide loses and where it wins.

    Args:
        comparison: with its row as the reference.
        steered: row whose decoder does not sample from the nucleus → perplexity of what it writes, as a ratio to
            what it writes from the same tokens without steering; None where that is not known.
    """
    rows = {row.name: row for row in comparison.measured}
    ours = rows.pop("ifguide", None)
    if ours is None:
        return ""
    less, dearer, cheaper, above = [], [], [], []
    for name, row in rows.items():
        if HEADLINE not in row.differences:
            continue
        ratio, what = fluency_against(row, ours, steered)
        said = f"{name} ({verdict(row)}; {what} {'not known' if ratio is None else f'{ratio - 1:+.1%}'})"
        difference = row.differences[HEADLINE]
        if difference.value < 0:
            (less if ratio is not None and ratio <= MARGIN else dearer).append(said)
        elif difference.interval is not None and difference.interval[0] > 0:
            above.append(name)
        seconds, mine = value(row, SECONDS), value(ours, SECONDS)
        if name != "none" and seconds is not None and mine is not None and seconds < CHEAPER * mine:
            cheaper.append(f"{name} ({seconds / mine:.2f}, toxic fraction {format_difference(difference, 3)})")
    parts = {
        f"**Where IF-Guide loses.** Lower toxic fraction, at a perplexity at most {MARGIN - 1:.0%} higher:": less,
        "Lower toxic fraction, at a perplexity that is higher or not known:": dearer,
        f"At most {CHEAPER} of its seconds:": cheaper,
        "**Where it wins.** Higher toxic fraction, with an interval of the difference above 0:": above,
    }
    return "\n\n".join(f"{said} {'; '.join(names) or 'no row'}." for said, names in parts.items()) + "\n"
