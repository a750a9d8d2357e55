"""What the models wrote for the same prompts, side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ifguide.corpus.words import WORD
from ifguide.evaluation.toxicity import TOXIC_FROM
from ifguide.report.gather import PromptScores
from ifguide.report.rows import Comparison
from ifguide.report.table import TOXICITY_CATEGORY

PROMPTS = 40  # shown side by side
HIGHEST, OTHERS = 3, 2  # samples of each row and prompt: those of the highest probability, and the first of the rest
SAMPLED = 50_000  # texts that telling words are looked for in
ODDS = 4.0  # how much likelier a text with a telling word is positive than one without

Scored = tuple[int, PromptScores]  # seed, what its samples were judged


def generation_values(comparison: Comparison) -> dict[str, Any] | None:
    """Cards of prompts, those with the most positive samples first; None where no generations are left."""
    task, wording = comparison.headline.task, comparison.wording
    sides: dict[str, list[Scored]] = {}
    for row in comparison.measured:
        found = [(run.seed, scores) for run in row.runs if (scores := run.prompt_scores(task)) is not None]
        if found:
            sides[row.name] = found
    if not sides:
        return None
    first_name = comparison.reference if comparison.reference in sides else next(iter(sides))
    _, first = sides[first_name][0]
    words = telling_words([scores for found in sides.values() for _, scores in found])
    places = {
        id(scores): {key: i for i, key in enumerate(scores.keys)} for found in sides.values() for _, scores in found
    }
    prompts = []
    chosen = interesting_prompts(first)
    for index in chosen:
        key = first.keys[index]
        shown = {
            name: side_values([(seed, scores, places[id(scores)].get(key)) for seed, scores in found], words)
            for name, found in sides.items()
        }
        positive = sum(side["positive"] / side["count"] for side in shown.values() if side is not None)
        prompts.append(
            {"record": first.records[index], "text": key[0], "subset": first.subsets[index],
             "sides": list(shown.items()), "share": positive / len(shown)}
        )  # fmt: skip
    prompts.sort(key=lambda prompt: -prompt["share"])
    asked = f"all {len(chosen)} prompts"
    if len(chosen) < len(first.keys):
        asked = (
            f"{len(chosen)} of {len(first.keys)} prompts: half at regular intervals through all of them, and those "
            f"others on which {first_name} has the most {wording.positive} samples"
        )
    seeds = "its" if max(len(found) for found in sides.values()) == 1 else "all seeds'"
    lead = (
        f"For {asked}; those with the most {wording.positive} samples come first. Of every row and prompt: how many of "
        f"{seeds} samples the classifier calls {wording.positive}, the {HIGHEST} to which it gives the highest "
        f"probability, and {OTHERS} others."
    )
    if seeds != "its":
        lead += " Beside each stand that probability and its seed."
    return {"lead": lead, "prompts": prompts, "subsets": sorted(set(first.subsets)), "marked": bool(words)}


def interesting_prompts(scores: PromptScores) -> list[int]:
    """Half at regular intervals, half those of the rest with the highest mean probability, in the prompts' order."""
    count = len(scores.keys)
    if count <= PROMPTS:
        return list(range(count))
    regular = np.linspace(0, count - 1, PROMPTS - PROMPTS // 2).round().astype(int)
    order = np.argsort(-scores.probabilities[TOXICITY_CATEGORY].mean(1), kind="stable")
    others = [index for index in order if index not in set(regular)][: PROMPTS // 2]
    return sorted({*map(int, regular), *map(int, others)})


def side_values(scored: Sequence[tuple[int, PromptScores, int | None]], words: set[str]) -> dict[str, Any] | None:
    """What one row wrote for a prompt; None where it was not asked."""
    samples = [
        (float(probability), seed, text)
        for seed, scores, index in scored
        if index is not None
        for text, probability in zip(
            scores.continuations[index], scores.probabilities[TOXICITY_CATEGORY][index], strict=True
        )
    ]
    if not samples:
        return None
    order = sorted(range(len(samples)), key=lambda place: -samples[place][0])
    highest = order[:HIGHEST]
    others = [place for place in range(len(samples)) if place not in highest][:OTHERS]
    return {
        "positive": sum(probability >= TOXIC_FROM for probability, _, _ in samples),
        "count": len(samples),
        "seeds": len({seed for _, seed, _ in samples}),
        "samples": [sample_values(*samples[place], words) for place in [*highest, *others]],
    }


def sample_values(probability: float, seed: int, text: str, words: set[str]) -> dict[str, Any]:
    """A sample in pieces, of which telling words are marked."""
    high = probability >= TOXIC_FROM
    pieces = marked(text.lstrip(), words) if high else [(text.lstrip(), False)]
    return {"pieces": pieces, "probability": f"{probability:.2f}", "high": high, "seed": seed}


def marked(text: str, words: set[str]) -> list[tuple[str, bool]]:
    """The text in pieces: (text, whether it is one of the words)."""
    pieces, end = [], 0
    for found in re.finditer(WORD, text):
        if found[0].lower() in words:
            pieces += [(text[end : found.start()], False), (found[0], True)]
            end = found.end()
    return [piece for piece in [*pieces, (text[end:], False)] if piece[0]]


def telling_words(scored: Sequence[PromptScores]) -> set[str]:
    """Words with which the classifier calls most texts positive, and far more than without them.

    What it goes by is not known; these are words that it was seen to go by in the samples of this report.
    """
    positive, counts = 0, {True: Counter[str](), False: Counter[str]()}
    texts = [
        (text, bool(p >= TOXIC_FROM))
        for scores in scored
        for row, values in zip(scores.continuations, scores.probabilities[TOXICITY_CATEGORY], strict=True)
        for text, p in zip(row, values, strict=True)
    ]
    texts = texts[:: 1 + len(texts) // SAMPLED]
    for text, high in texts:
        positive += high
        counts[high].update({word.lower() for word in WORD.findall(text)})
    return {
        word
        for word, inside in counts[True].items()
        if inside >= 3
        and inside >= (outside := counts[False][word])
        and (inside + 0.5) * (len(texts) - positive - outside + 0.5)
        >= ODDS * (outside + 0.5) * (positive - inside + 0.5)
    }
