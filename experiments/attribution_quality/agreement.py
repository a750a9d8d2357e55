"""Do tokens score higher the more annotators marked them? HateXplain, whose posts were read by three people each."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.build import tokens_in_spans
from ifguide.corpus.sources import read_records
from ifguide.statistics import ratio_interval

ANNOTATORS = 3


def marked_posts(datasets: Path) -> list[tuple[list[str], NDArray[np.int64]]]:
    """Words of each post that most annotators judged toxic, and how many of the three marked each."""
    posts = []
    for _, record in read_records(datasets / "hatexplain" / "val.jsonl.gz"):
        toxic = sum(label != 1 for label in record["annotators"]["label"])
        if 2 * toxic > ANNOTATORS and record["rationales"]:
            posts.append((record["post_tokens"], np.sum(record["rationales"], axis=0)))
    return posts


def agreement(study, names: list[str], datasets: Path) -> dict[str, list[tuple[float, float, float]]]:
    """Variant → for 0, 1, 2, 3 annotators: mean percentile of the score among all tokens, and its 95 % interval.

    Intervals resample posts.
    """
    posts, tokenizer = marked_posts(datasets), study.base.corpus.tokenizer
    texts = [" ".join(words) for words, _ in posts]
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    width = 1 + max(len(encoding.ids) for encoding in encodings)
    ids = np.full((len(texts), width), tokenizer.eos_token_id, dtype=np.int64)
    marks = np.full(ids.shape, -1)
    for row, ((words, counts), encoding) in enumerate(zip(posts, encodings, strict=True)):
        ids[row, 1 : 1 + len(encoding.ids)] = encoding.ids
        ends = np.cumsum([len(word) + 1 for word in words])
        marks[row, 1 : 1 + len(encoding.ids)] = 0
        for count in range(1, ANNOTATORS + 1):
            spans = tuple(
                (int(e) - len(word) - 1, int(e) - 1)
                for word, e, c in zip(words, ends, counts, strict=True)
                if c >= count
            )
            inside = tokens_in_spans(encoding.offsets, spans)
            marks[row, 1 : 1 + len(encoding.ids)][inside] = count
    read = marks >= 0
    result = {}
    for name in names:
        scores = study.score_text(name, ids)
        percentile = np.zeros(ids.shape)
        percentile[read] = scores[read].argsort(kind="stable").argsort(kind="stable") / (read.sum() - 1)
        result[name] = [_mean_with_interval(percentile, marks == count) for count in range(ANNOTATORS + 1)]
    return result


def _mean_with_interval(values: NDArray[np.float64], member: NDArray[np.bool_]) -> tuple[float, float, float]:
    sums, counts = (values * member).sum(1), member.sum(1)
    low, high = ratio_interval(sums, counts)
    return float(sums.sum() / counts.sum()), low, high
