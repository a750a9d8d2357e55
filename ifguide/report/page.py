"""`report.html`: the comparison in one file that needs nothing else, see `ifguide.report.render`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ifguide.evaluation.toxicity import TOXIC_FROM
from ifguide.report.formats import explanation, is_single, lay_out
from ifguide.report.gather import PromptScores, Run
from ifguide.report.render import inline_svg, render
from ifguide.report.rows import Comparison, Row
from ifguide.report.table import HEADLINE, TOXICITY_CATEGORY
from ifguide.report.token_page import PageDocument, page_values
from ifguide.workspace import write_atomically

PROMPTS = 40  # shown side by side
SAMPLES = 3  # of each method and prompt
DOCUMENTS = 30  # of each token page
MASKS = 4


def write_page(path: Path, comparison: Comparison, *, title: str, plots: Sequence[tuple[str, Path]]) -> None:
    """Write the report; `plots` are captions and SVG files, which are copied into the page."""
    generations = generation_values(comparison)
    token_pages = token_page_values(comparison)
    contents = [("results", "Results")]
    contents += [("plots", "Plots")] * bool(plots)
    contents += [("generations", "Generations")] * bool(generations)
    contents += [(page["anchor"], page["heading"]) for page in token_pages]
    contents += [("settings", "Settings")]
    page = render(
        "report.html",
        title=title,
        wide=True,
        measured=len(comparison.measured),
        failed=len(comparison.failed),
        reference=comparison.reference,
        contents=contents,
        layout=lay_out(comparison, longest_problem=None),
        explanation=explanation(comparison),
        single=is_single(comparison),
        split=lambda text: text.partition(" ")[::2],
        header=lambda text: re.sub(" (?=[↓↑])", "\u00a0", text),
        plots=[(caption, inline_svg(file, f"plot{i}-")) for i, (caption, file) in enumerate(plots)],
        generations=generations,
        token_pages=token_pages,
        settings=[settings_values(row) for row in comparison.rows if row.runs],
    )
    write_atomically(Path(path), page)


def settings_values(row: Row) -> dict[str, Any]:
    config = json.dumps(row.runs[0].config, indent=2, ensure_ascii=False, default=str)
    return {"name": row.name, "seed": row.runs[0].seed, "config": config, "runs": [run_values(run) for run in row.runs]}


def run_values(run: Run) -> list[tuple[str, str]]:
    pairs = [("seed", str(run.seed)), ("folder", run.place)]
    pairs += [(key, value) for key, value in run.overrides.items() if key != "seed"]
    return pairs + [(f"artifact: {role}", path.name) for role, path in run.artifacts.items()]


def generation_values(comparison: Comparison) -> dict[str, Any] | None:
    """Side by side: what each method, in its first seed, wrote for the same prompts."""
    known = [(row.name, row.runs[0].prompt_scores(HEADLINE.task)) for row in comparison.measured]
    sides = {name: scores for name, scores in known if scores is not None}
    if not sides:
        return None
    first_name = comparison.reference if comparison.reference in sides else next(iter(sides))
    first = sides[first_name]
    chosen = interesting_prompts(first)
    places = {name: {key: i for i, key in enumerate(scores.keys)} for name, scores in sides.items()}
    prompts = [
        {
            "record": first.keys[index][0],
            "text": first.keys[index][1],
            "subset": first.subsets[index],
            "sides": [
                (name, sample_values(scores, places[name].get(first.keys[index]))) for name, scores in sides.items()
            ],
        }
        for index in chosen
    ]
    asked = f"all {len(chosen)} prompts"
    if len(chosen) < len(first.keys):
        asked = (
            f"{len(chosen)} of {len(first.keys)} prompts: half at regular intervals through all of them, and those "
            f"others on which {first_name} was most toxic"
        )
    whose = "each method's first seed" if len(comparison.rows) > 1 else "the model"
    lead = (
        f"The first {SAMPLES} samples of {whose} for {asked}. Beside each sample stands the classifier's probability."
    )
    return {"lead": lead, "prompts": prompts}


def interesting_prompts(scores: PromptScores) -> list[int]:
    """Half at regular intervals, half the most toxic of the rest, in the order of the prompts."""
    count = len(scores.keys)
    if count <= PROMPTS:
        return list(range(count))
    regular = np.linspace(0, count - 1, PROMPTS - PROMPTS // 2).round().astype(int)
    order = np.argsort(-scores.probabilities[TOXICITY_CATEGORY].mean(1), kind="stable")
    others = [index for index in order if index not in set(regular)][: PROMPTS // 2]
    return sorted({*map(int, regular), *map(int, others)})


def sample_values(scores: PromptScores, index: int | None) -> list[dict[str, Any]] | None:
    """The first samples for a prompt; None where this prompt was not asked."""
    if index is None:
        return None
    samples = zip(scores.continuations[index], scores.probabilities[TOXICITY_CATEGORY][index], strict=True)
    return [
        {"text": text.lstrip(), "probability": f"{p:.2f}", "high": bool(p >= TOXIC_FROM)}
        for text, p in list(samples)[:SAMPLES]
    ]


def token_page_values(comparison: Comparison) -> list[dict[str, Any]]:
    """The scored training documents of each different mask, a page for every behaviour."""
    shown: list[str] = []
    pages: list[dict[str, Any]] = []
    for row in comparison.measured:
        try:
            found = row.runs[0].token_pages()
            content = json.dumps(found, sort_keys=True)
            if not found or content in shown or len(shown) == MASKS:
                continue
            shown.append(content)
            several = len(found) > 1
            made = [
                page_values(
                    [PageDocument(**document) for document in page["documents"]][:DOCUMENTS],
                    threshold=page["threshold"],
                    summary=page["summary"],
                    behaviour=behaviour,
                )
                | {"heading": f"Training tokens: {row.name}" + (f", {behaviour}" if several else "")}
                for behaviour, page in found.items()
            ]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            made = [{"heading": f"Training tokens: {row.name}", "problem": f"a damaged token page: {error}"}]
        pages += [{"problem": None} | page for page in made]
    return [page | {"anchor": f"tokens-{index}"} for index, page in enumerate(pages)]
