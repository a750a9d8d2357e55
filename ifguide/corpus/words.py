"""Words that tell a behaviour: learned from queries or read from lists, and found in texts."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import log
from pathlib import Path

from ifguide.checks import listed
from ifguide.corpus.documents import Query
from ifguide.corpus.records import COMPRESSED, read_lines
from ifguide.workspace import find_files

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
RUN = re.compile(r"\w+")


def word_log_odds(queries: Sequence[Query]) -> dict[str, float]:
    """Word → log-odds of being in a toxic continuation against a non-toxic one, with add-one smoothing."""
    counts = {True: Counter[str](), False: Counter[str]()}
    for query in queries:
        counts[query.toxic].update(word.lower() for word in WORD.findall(query.continuation))
    words = set(counts[True]) | set(counts[False])
    totals = {toxic: counter.total() + len(words) for toxic, counter in counts.items()}
    return {w: log((counts[True][w] + 1) / totals[True]) - log((counts[False][w] + 1) / totals[False]) for w in words}


def indicative_words(queries: Sequence[Query], log_odds: float) -> list[str]:
    """The words of at least these log-odds, the most indicative first; smoothing keeps rare words out.

    Raises:
        ValueError: there is none.
    """
    odds = word_log_odds(queries)
    words = sorted((word for word in odds if odds[word] >= log_odds), key=lambda word: (-odds[word], word))
    if not words:
        highest = max(odds.values(), default=float("-inf"))
        raise ValueError(
            f"log_odds={log_odds}: no word of the {len(queries)} queries is that indicative, the highest log-odds are "
            f"{highest:.2f}; use more queries, a lower `log_odds` or lists of words in `files`"
        )
    return words


def read_words(files: str | Sequence[str], column: str | None = None) -> list[str]:
    """Words and phrases of lists, without duplicates: one a line of a `.txt` file, or a column of a `.csv` file.

    Raises:
        ValueError: no such file or column, another format, or not one word.
    """
    words: dict[str, None] = {}
    for file in find_files(files):
        words |= dict.fromkeys(word.strip().lower() for word in _entries(file, column))
    words.pop("", None)
    if not words:
        raise ValueError(f"files={files}: not one word in it")
    return list(words)


def _entries(file: Path, column: str | None) -> Iterable[str]:
    kind = next((suffix for suffix in reversed(file.suffixes) if suffix not in COMPRESSED), "")
    lines = (line for _, line in read_lines(file))
    if kind == ".txt":
        return lines
    if kind != ".csv":
        raise ValueError(
            f"files={file}: a list of words is a .txt file (one a line) or a .csv file with a column of words"
        )
    try:
        table = csv.DictReader(lines, strict=True)  # or a quote without its end takes in all lines after it
        if column not in (table.fieldnames or ()):
            raise ValueError(f"column={column}: {file} has the columns {listed(table.fieldnames or ())}")
        return [row[column] or "" for row in table]
    except csv.Error as error:
        raise ValueError(f"files={file}: it is no .csv file ({error})") from None


class WordCounter:
    """Finds, and counts, words and phrases of a list in texts: whole ones, in whatever case; signs anywhere.

    Words are looked up, so that a list may be long; phrases, and words with signs in them, are searched for where a
    text holds all that is a word in one of them.
    """

    def __init__(self, words: Iterable[str]) -> None:
        words = {word.lower() for word in words}
        self._words = {word for word in words if RUN.fullmatch(word)}
        parts = {word: RUN.findall(word) for word in words - self._words}
        self._first = {found[0] for found in parts.values() if found}
        self._phrases = _pattern((word for word, found in parts.items() if found), r"(?<!\w)(?:{})(?!\w)")
        self._signs = _pattern((word for word, found in parts.items() if not found), "(?:{})")

    def __call__(self, text: str) -> int:
        """Number of places; of overlapping phrases, the first from the left."""
        return len(self.starts(text))

    def starts(self, text: str) -> list[int]:
        """The characters at which those places begin."""
        runs = [(run.group().lower(), run.start()) for run in RUN.finditer(text)]
        starts = [start for run, start in runs if run in self._words]
        if self._phrases is not None and not self._first.isdisjoint(run for run, _ in runs):
            starts += [found.start() for found in self._phrases.finditer(text)]
        if self._signs is not None:
            starts += [found.start() for found in self._signs.finditer(text)]
        return starts


def _pattern(words: Iterable[str], place: str) -> re.Pattern[str] | None:
    alternatives = [r"\s+".join(map(re.escape, word.split())) for word in sorted(words, key=lambda w: (-len(w), w))]
    return re.compile(place.format("|".join(alternatives)), re.IGNORECASE) if alternatives else None
