"""What a run leaves in its directory: metrics, table, plots and the token page."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ifguide.corpus.blocks import LABELS
from ifguide.corpus.tokenizers import token_texts
from ifguide.influence.store import open_scores
from ifguide.pipeline import Pipeline
from ifguide.report.gather import TOKENS_FILE
from ifguide.report.plots import plot_scores, plot_toxicity_perplexity
from ifguide.report.table import comparison_table
from ifguide.report.token_page import PageDocument, write_token_page
from ifguide.workspace import write_atomically, write_json

PAGE_DOCUMENTS = 60


def write_results(
    pipeline: Pipeline, reference: Pipeline | None, directory: Path, *, name: str, reference_name: str | None
) -> None:
    """Write `metrics.json`, `table.md`, plots and the token page of an evaluated run, and say where they are."""
    pipelines = {} if reference is None or reference_name is None else {reference_name: reference}
    pipelines[name] = pipeline
    rows: dict[str, Any] = {method: one.metrics() for method, one in pipelines.items()}
    models = {method: one.model().path for method, one in pipelines.items()}
    marks = {method: " ".join(one.notes) for method, one in pipelines.items() if one.notes}
    for method, one in pipelines.items():
        write_run(one, directory if one is pipeline else Path(one.cfg.paths.run), method)
    table = comparison_table(rows, marks=marks)
    write_atomically(directory / "table.md", table.encode())
    plot_toxicity_perplexity(rows, directory / "toxicity_perplexity.png")
    print(f"\n{table}")
    for method, path in models.items():
        print(f"model {method + ':':18} {path}")
    print(f"{'metrics:':24} {directory / 'metrics.json'}")
    print(f"{'plot:':24} {directory / 'toxicity_perplexity.png'}")
    if pipeline.objective.uses_mask and pipeline.cfg.paths.mask is None:
        write_token_pages(pipeline, directory)
        print(f"{'token scores:':24} {directory / 'token_scores.png'}")
        print(f"{'token page:':24} {directory / 'tokens.html'}")


def write_run(pipeline: Pipeline, directory: Path, name: str) -> None:
    """What a report reads: the metrics, which artifacts they come from, the method's name and notes on the row."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "row.json", {"name": name, "notes": pipeline.notes})
    write_json(directory / "artifacts.json", {role: path.name for role, path in pipeline.artifacts.items()})
    write_json(directory / "metrics.json", pipeline.metrics())


def write_token_pages(pipeline: Pipeline, directory: Path) -> None:
    """The histogram of token scores, and the page of the documents with the highest selected scores."""
    split, mask = pipeline.corpus.split("train"), pipeline.train_mask()
    scores = open_scores(pipeline.pooled().path)[0]  # what was selected from
    facts = pipeline.mask().manifest["facts"]
    threshold = next(iter(facts["behaviours"].values()))["threshold"]
    annotation = split.annotation
    plot_scores(
        scores[:, 1:],
        threshold,
        directory / "token_scores.png",
        annotated=None if annotation is None else annotation[:][:, 1:],
    )
    length = split.block_length
    selected = mask[:].reshape(-1)
    owner = split.documents_of(np.arange(selected.size))
    merit = np.bincount(owner, weights=np.where(selected, scores.reshape(-1), 0.0), minlength=len(split.documents))
    texts = token_texts(pipeline.corpus.tokenizer)
    names = {code: label for label, code in LABELS.items()}
    documents = []
    for rank, index in enumerate(np.argsort(-merit, kind="stable")[:PAGE_DOCUMENTS], start=1):
        start, end = split.extent(int(index))
        blocks = slice(start // length, -(-end // length))
        here = slice(start - blocks.start * length, end - blocks.start * length)
        row = split.documents[index]
        documents.append(
            PageDocument(
                name=f"{pipeline.corpus.sources[row['source']]}, record {row['record']}",
                rank=rank,
                tokens=[texts[token] for token in split.tokens(blocks).reshape(-1)[here]],
                scores=scores[blocks].reshape(-1)[here].tolist(),
                selected=mask[blocks].reshape(-1)[here].tolist(),
                annotated=None if annotation is None else annotation[blocks].reshape(-1)[here].tolist(),
                label=names[int(row["label"])],
            )
        )
    summary = {
        "threshold τ": f"{threshold:.4g}",
        "tokens selected": f"{facts['selected']:,} of {selected.size:,} ({facts['selected'] / selected.size:.2%})",
        "documents": f"those with the highest sum of selected scores, of {len(split.documents):,}",
    }
    write_token_page(
        directory / "tokens.html",
        documents,
        title="Tokens that teach the behaviour",
        threshold=threshold,
        summary=summary,
    )
    page = {"threshold": threshold, "summary": summary, "documents": [asdict(document) for document in documents]}
    write_atomically(directory / TOKENS_FILE, json.dumps(page).encode())
