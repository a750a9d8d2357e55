"""Do token scores find what people marked as toxic? Scorers, poolings, students and rivals; writes README.md.

    IFGUIDE_DATASETS=... python experiments/attribution_quality/run.py [size=sample] [override ...]

Variants are chosen on the corpus of `+experiment=real_text` (SemEval's training posts) and reported on a corpus of
other text (`data=annotated_posts`: SemEval's trial posts, HateXplain) that the proxy never saw, and on HateCheck.
`size=sample` takes the built-in sample instead of the first and leaves out the rest. Everything is found again in the
workspace, so an interrupted run continues.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement import agreement
from cases import case_quality, contrast_cases
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from omegaconf import OmegaConf

from ifguide.corpus.blocks import LABELS
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.queries import encode_queries
from ifguide.corpus.tokenizers import token_texts
from ifguide.corpus.words import word_log_odds
from ifguide.evaluation.attribution import (
    SHARES,
    attribution_quality,
    known_tokens,
    word_list_scores,
)
from ifguide.evaluation.fluency import block_losses
from ifguide.evaluation.token_baselines import (
    classifier_window_scores,
    expert_log_ratio_scores,
    gradient_norm_scores,
)
from ifguide.influence.agreement import jaccard
from ifguide.influence.amortised import Amortised
from ifguide.influence.direction import load_direction
from ifguide.influence.pooling import type_sums
from ifguide.influence.scoring import prepare_scorer, score_blocks
from ifguide.influence.store import create_scores, open_scores
from ifguide.pipeline import Pipeline
from ifguide.report.attribution import (
    plot_agreement,
    plot_cost,
    plot_mask_overlap,
    plot_precision_recall,
    precision_recall,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXACT = ("pooling=none",)
AMORTISED = ("scorer=amortised",)

# name → overrides; the first is what the others are compared with
VARIANTS: dict[str, tuple[str, ...]] = {
    "exact (`jvp`)": EXACT,
    "positional, aligned": (*EXACT, "scorer=positional"),
    "positional, as published": (*EXACT, "scorer=positional", "scorer.alignment=as_published"),
    "exact, damping 0.001": (*EXACT, "curvature.damping=0.001"),
    "exact, diagonal curvature": (*EXACT, "curvature=diagonal"),
    "exact, no curvature": (*EXACT, "curvature=identity"),
    "pooled by type": ("pooling=type",),
    "pooled by type and context": ("pooling=type_context",),
    "pooled by word": ("pooling=word",),
    "pooled by word and context": ("pooling=word_context",),
    "pooled by word and context, no curvature": ("pooling=word_context", "curvature=identity"),
    "amortised from 0.1 %": (*AMORTISED, "scorer.share=0.001"),
    "amortised from 0.2 %": (*AMORTISED, "scorer.share=0.002"),
    "amortised from 0.5 %": (*AMORTISED, "scorer.share=0.005"),
    "amortised from 1 %": (*AMORTISED, "scorer.share=0.01"),
    "amortised from 2 %": (*AMORTISED, "scorer.share=0.02"),
    "amortised from 5 %": AMORTISED,
    "amortised from 5 %, second sample": (*AMORTISED, "scorer.seed=1"),
    "amortised from 5 %, third sample": (*AMORTISED, "scorer.seed=2"),
    "amortised from 10 %": (*AMORTISED, "scorer.share=0.1"),
    "amortised from 5 %, words alone": (*AMORTISED, "scorer.student.types.context_weight=0"),
    "amortised from 5 %, convolutions": ("scorer=amortised_convolution",),
    "amortised from 10 %, convolutions": ("scorer=amortised_convolution", "scorer.share=0.1"),
}
SAMPLE_VARIANTS = ("exact (`jvp`)", "positional, aligned", "pooled by word and context", "amortised from 10 %")
SAMPLE = ("stage=pooled", "data.sources.sample.size=1500", "data.tokenizer.vocabulary=1024", "curvature.blocks=128")


SHOWN = (
    "exact (`jvp`)",
    "positional, aligned",
    "positional, as published",
    "pooled by type and context",
    "pooled by word and context",
    "amortised from 5 %",
    "amortised from 5 %, convolutions",
)
REPORTED = (
    "exact (`jvp`)",
    "positional, aligned",
    "pooled by type and context",
    "pooled by word and context",
    "amortised from 5 %",
    "amortised from 5 %, second sample",
    "amortised from 5 %, third sample",
    "amortised from 5 %, convolutions",
)
OURS = "amortised from 5 %"
ON_NEW_TEXT = ("exact (`jvp`)", "positional, aligned", "amortised from 5 %", "amortised from 5 %, convolutions")
KEY = "precision_at_0.01"

TEXT = """# Attribution quality

**Question.** Do token scores find the tokens that people marked as toxic, do they beat simpler ways to find them, and
what of their quality is left when only a few per cent of the corpus are scored exactly?

**Command.** `{command}` on {machine}. Intervals (95 %) resample groups of blocks. "Scored exactly" is the share of the
blocks that costs as much as exact scoring; what a student adds to that is measured in
[`experiments/benchmarks`](../benchmarks/README.md) (`amortised.py`).
{sections}
{appended}"""

DEVELOPMENT = """
## Where variants were chosen: {corpus}

{tokens:,} tokens, {share:.2%} of those that are known lie in a span that people marked.

{table}

![Precision and recall](precision_recall.png)

![Precision at 1 % against the share of blocks scored exactly](cost.png)

{findings}

What Algorithm 1 selects:

{masks}

![Overlap of masks](mask_overlap.png)

Token types that promote toxicity most (mean exact score, inner letters hidden): {types}.

Documents that promote it most (sum of exact scores over the tokens that are selected):

{documents}
"""

REPORT = """
## Reported once: {title} in text that the proxy never saw

{share:.2%} of the tokens are marked; benign text is other IMDb reviews.

{table}

{findings}
"""

AGREEMENT = """
## Do tokens score higher the more people marked them?

Mean percentile of the score (95 % interval over posts) among all tokens of HateXplain posts that most of three
annotators judged hateful or offensive, by how many of them marked the word.

{table}

![Score against annotator agreement](agreement.png)
"""

CASES = """
## {title}

Scores are summed over a text.

{table}

{findings}
"""


class Study:
    """One corpus with its proxy: the scores of every variant and rival, and their quality."""

    def __init__(self, *overrides: str, variants: tuple[str, ...] | None = None) -> None:
        self.overrides = overrides
        self.pipelines = {name: self._compose(*VARIANTS[name]) for name in variants or VARIANTS}
        self.base = next(iter(self.pipelines.values()))
        self.split, self.tokenizer = self.base.corpus.split("train"), self.base.corpus.tokenizer
        assert self.split.annotation is not None
        self.annotation = self.split.annotation[:]

    def _compose(self, *overrides: str) -> Pipeline:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            fixed = ["stage=pooled", "paths.run=outputs/attribution_quality", *self.overrides]
            return Pipeline(compose("config", overrides=[*fixed, *overrides]))

    def scores(self, name: str) -> NDArray[np.float32]:
        return open_scores(self.pipelines[name].pooled().path)[0]

    def share(self, name: str) -> float:
        """Of the blocks that a variant scores exactly."""
        scorer = self.pipelines[name].scorer
        return scorer.share if isinstance(scorer, Amortised) else 1.0

    def score_text(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of other blocks, [B, T], with what the variant's scores were made with."""
        pipeline = self.pipelines[name]
        pipeline.scores()
        if isinstance(pipeline.scorer, Amortised):
            return pipeline.scorer.student.load(pipeline.artifacts["student"]).scores(torch.from_numpy(ids))[0].numpy()
        model = pipeline._load(pipeline.proxy(), "proxy")
        direction = load_direction(pipeline.direction().path, model)
        scorer = prepare_scorer(pipeline.scorer, model, [direction], lambda rows: ids[rows], (1, *ids.shape), 0)
        return score_blocks(scorer, ids, batch_size=64, device=model.device)[0]

    def mask(self, name: str) -> TokenMask:
        self.pipelines[name].mask()
        return self.pipelines[name].train_mask()

    def rivals(self) -> dict[str, NDArray[np.float32]]:
        """Scores by other means, kept in the workspace as those of the variants are."""
        base, split, batch = self.base, self.split, self.base.cfg.influence.batch_size
        queries = next(iter(base.queries.values()))
        encoded = encode_queries(queries, self.tokenizer, split.block_length)
        model = base._load(base.proxy(), "proxy")
        makers: dict[str, Callable[[], NDArray[np.float32]]] = {
            "word list: log-odds between queries": lambda: word_list_scores(
                split, self.tokenizer, word_log_odds(queries)
            ),
            "classifier on ±8 tokens": lambda: classifier_window_scores(split, self.tokenizer, base.classifier),
            "anti-expert less expert": lambda: expert_log_ratio_scores(model, split, encoded, batch_size=batch),
            "loss": lambda: block_losses(model, split, batch_size=batch),
            "gradient norm": lambda: gradient_norm_scores(model, split, batch_size=batch),
        }
        return {name: self._kept(name, make) for name, make in makers.items()}

    def _kept(self, name: str, make: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        def build(directory: Path) -> None:
            with create_scores(directory, (1, *self.split.shape)) as scores:
                scores[0] = make()

        base = self.base
        settings = {"scores": name, "queries": OmegaConf.to_container(base.cfg.behaviours, resolve=True)}
        inputs = {"data": base.data(), "proxy": base.proxy()}
        artifact = base.workspace.build("baseline", version=1, settings=settings, inputs=inputs, builder=build)
        return open_scores(artifact.path)[0]

    def quality(self, scores: NDArray[np.float32], source: str | None = None) -> dict[str, Any]:
        """Against the spans of one source of posts, or of all."""
        number = None if source is None else self.base.corpus.sources.index(source)
        return attribution_quality(scores, self.annotation, known_tokens(self.split, number))


def table(rows: dict[str, dict[str, Any]], study: Study) -> str:
    header = ["", "ROC AUC", *(f"precision at {share:.1%}" for share in SHARES), "scored exactly"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, row in rows.items():
        cells = [_with_interval(row, "roc_auc"), *(_with_interval(row, f"precision_at_{s}") for s in SHARES)]
        share = f"{study.share(name):.1%}" if name in study.pipelines else "–"
        lines.append(f"| {name} | {' | '.join(cells)} | {share} |")
    return "\n".join(lines)


def _with_interval(row: dict[str, Any], key: str) -> str:
    low, high = row[f"{key}_interval"]
    return f"{row[key]:.3f} ({low:.3f}–{high:.3f})"


def mask_quality(study: Study, name: str) -> dict[str, float]:
    """What Algorithm 1 selects from a variant's scores."""
    mask, documents = study.mask(name)[:], study.split.documents
    toxic = (documents["label"] == 1)[study.split.documents_of(np.arange(mask.size))].reshape(mask.shape)
    known = known_tokens(study.split)
    return {
        "tokens": int(mask.sum()),
        "in toxic posts": float(toxic[mask].mean()),
        "in toxic spans, of those where spans are known": float(study.annotation[mask & known].mean()),
        "of toxic spans": float(mask[study.annotation].mean()),
    }


def findings(rows: dict[str, dict[str, Any]], ours: str) -> str:
    """Sentences that only state comparisons of the measured numbers."""
    others = [name for name in rows if name.startswith(("exact (", "word list", "classifier"))]
    lines = []
    for key, title in (("roc_auc", "ROC AUC"), (KEY, "precision at 1 %")):
        for name in others:
            (low, high), (least, most) = rows[ours][f"{key}_interval"], rows[name][f"{key}_interval"]
            verdict = "above" if low > most else "**below**" if high < least else "not told apart from"
            lines.append(
                f"- {title}: scores {ours}, {rows[ours][key]:.3f}, are {verdict} those of the "
                f"{name.split(':')[0]}, {rows[name][key]:.3f}."
            )
    return "\n".join(lines)


def case_findings(rows: dict[str, dict[str, float]], *ours: str) -> str:
    """The same of cases: whether a variant tells bad from good better than the word list and the classifier do."""
    lines = []
    for name in ours:
        for rival in (row for row in rows if row.startswith(("word list", "classifier"))):
            mine, theirs = rows[name], rows[rival]
            above, below = mine["from"] > theirs["to"], mine["to"] < theirs["from"]
            verdict = "above" if above else "**below**" if below else "not told apart from"
            lines.append(
                f"- ROC AUC: sums of scores {name}, {mine['ROC AUC']:.3f}, are {verdict} those of the "
                f"{rival.split(':')[0]}, {theirs['ROC AUC']:.3f}."
            )
    return "\n".join(lines)


def agreement_table(means: dict[str, list[tuple[float, float, float]]]) -> str:
    numbers = range(len(next(iter(means.values()))))
    lines = [f"| marked by | {' | '.join(map(str, numbers))} |", "|---" * (len(numbers) + 1) + "|"]
    for name, points in means.items():
        lines.append(f"| {name} | {' | '.join(f'{m:.3f} ({low:.3f}–{high:.3f})' for m, low, high in points)} |")
    return "\n".join(lines)


def plain_table(rows: dict[str, dict[str, float]]) -> str:
    header = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(header)} |", "|---" * (len(header) + 1) + "|"]
    for name, row in rows.items():
        cells = (f"{value:,}" if isinstance(value, int) else f"{value:.3f}" for value in row.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def top_types(study: Study, scores: NDArray[np.float32], count: int = 40) -> str:
    """Token types with the highest pooled score, their inner letters masked."""
    sums, counts = type_sums(scores[None], study.split.tokens, study.base.corpus.vocabulary)
    texts = token_texts(study.tokenizer)
    best = np.argsort(-(sums[0] / (counts + 20)))[:count]
    return ", ".join(f"`{_masked(texts[index])}`" for index in best)


def top_documents(study: Study, name: str, count: int = 10) -> str:
    """Source, record and label of the documents whose selected tokens have the highest sum of scores."""
    scores, mask, documents = study.scores(name), study.mask(name)[:], study.split.documents
    owner = study.split.documents_of(np.arange(mask.size))
    merit = np.bincount(owner, weights=np.where(mask, scores, 0).ravel(), minlength=len(documents))
    selected = np.bincount(owner, weights=mask.ravel(), minlength=len(documents))
    labels = {code: label or "not labelled" for label, code in LABELS.items()}
    lines = ["| source | record | label | selected tokens | sum of their scores |", "|---|---|---|---|---|"]
    for index in np.argsort(-merit, kind="stable")[:count]:
        row = documents[index]
        source, label = study.base.corpus.sources[row["source"]], labels[int(row["label"])]
        lines.append(f"| {source} | {row['record']} | {label} | {selected[index]:.0f} | {merit[index]:.4g} |")
    return "\n".join(lines)


def _masked(text: str) -> str:
    word = text.strip().replace("`", "'").replace("|", "¦") or "␣"
    return word if len(word) < 3 else f"{word[0]}{'*' * (len(word) - 2)}{word[-1]}"


def shown(arguments: list[str]) -> list[str]:
    """The arguments that decide what is measured, not where it lies."""
    return [argument for argument in arguments if not argument.startswith(("output=", "paths.", "trainer."))]


def report_overrides(development: Study) -> list[str]:
    """Score other text with the development corpus's proxy, which is not trained further."""
    proxy, tokenizer = development.base.proxy().path, development.base.data().path / "tokenizer"
    return [
        "data=annotated_posts", f"data.tokenizer.path={tokenizer}", f"proxy.pretrained={proxy}", "proxy_optim.epochs=0",
    ]  # fmt: skip


def main() -> None:
    arguments = sys.argv[1:]
    small = "size=sample" in arguments
    overrides = [argument for argument in arguments if argument != "size=sample"]
    output = Path(next((a.removeprefix("output=") for a in overrides if a.startswith("output=")), HERE))
    overrides = [argument for argument in overrides if not argument.startswith("output=")]
    output.mkdir(parents=True, exist_ok=True)
    names = list(SAMPLE_VARIANTS if small else VARIANTS)
    development = Study(*(SAMPLE if small else ["+experiment=real_text"]), *overrides, variants=tuple(names))
    print(f"Development corpus: {development.split.shape[0]} blocks", flush=True)

    rows, curves, scores = {}, {}, {}
    known = known_tokens(development.split)
    known[:, 0] = False
    for name in names:
        scores[name] = development.scores(name)
        rows[name] = development.quality(scores[name])
        print(f"{name:50} {rows[name]['roc_auc']:.3f} {rows[name]['precision_at_0.01']:.3f}", flush=True)
    for name, values in development.rivals().items():
        scores[name], rows[name] = values, development.quality(values)
        print(f"{name:50} {rows[name]['roc_auc']:.3f} {rows[name]['precision_at_0.01']:.3f}", flush=True)
    for name in [*(n for n in names if n in SHOWN), *(n for n in scores if n not in names)]:
        curves[name] = precision_recall(scores[name][known], development.annotation[known])
    plot_precision_recall(
        curves, rows[names[0]]["annotated_share"], output / "precision_recall.png", title="where variants were chosen"
    )
    masked = [name for name in names if name in SHOWN]
    masks = {name: development.mask(name) for name in masked}
    overlap = np.array([[jaccard(a, b) for b in masks.values()] for a in masks.values()])
    plot_mask_overlap(masked, overlap, output / "mask_overlap.png")
    cost = {
        name: (development.share(name), rows[name][KEY], rows[name][f"{KEY}_interval"])
        for name in names
        if name == names[0] or (name.startswith("amortised from") and "," not in name)
    }
    plot_cost(cost, output / "cost.png", label="precision at the top 1 %")
    sections = [
        DEVELOPMENT.format(
            corpus="the built-in sample" if small else "`+experiment=real_text`",
            tokens=development.split.shape[0] * development.split.shape[1],
            share=rows[names[0]]["annotated_share"],
            table=table(rows, development),
            findings=findings(rows, "amortised from 10 %" if small else OURS),
            masks=plain_table({name: mask_quality(development, name) for name in masked}),
            types=top_types(development, scores[names[0]]),
            documents=top_documents(development, names[0]),
        )
    ]
    appended = [path for path in (HERE / "datamodeling.md", HERE / "detoxification.md") if path.exists() and not small]

    def readme() -> str:
        """Write what is measured so far."""
        text = TEXT.format(
            command=" ".join(["python experiments/attribution_quality/run.py", *shown(arguments)]),
            machine=f"{os.cpu_count()} CPU cores ({platform.machine()})",
            sections="\n".join(sections),
            appended="".join(path.read_text(encoding="utf-8") for path in appended),
        )
        (output / "README.md").write_text(text, encoding="utf-8")
        return text

    readme()
    if not small:
        datasets = Path(development.base.cfg.paths.datasets)
        means = agreement(development, list(ON_NEW_TEXT), datasets)
        plot_agreement(means, output / "agreement.png")
        sections.append(AGREEMENT.format(table=agreement_table(means)))
        for title, cases in contrast_cases(datasets).items():
            quality = case_quality(development, list(ON_NEW_TEXT), *cases)
            sections.append(
                CASES.format(
                    title=title, table=plain_table(quality), findings=case_findings(quality, ON_NEW_TEXT[0], OURS)
                )
            )
        readme()
        report = Study("+experiment=real_text", *report_overrides(development), *overrides, variants=REPORTED)
        results = {name: report.scores(name) for name in REPORTED}
        results |= report.rivals()
        for source, title in (("toxic_spans", "SemEval trial posts"), ("hatexplain", "HateXplain posts")):
            quality = {name: report.quality(values, source) for name, values in results.items()}
            sections.append(REPORT.format(title=title, share=quality[REPORTED[0]]["annotated_share"],
                                          table=table(quality, report), findings=findings(quality, OURS)))  # fmt: skip
        readme()
    print(readme())
    best = max((n for n in names), key=lambda n: rows[n][KEY])
    print(json.dumps({"best": best, **{name: {k: v for k, v in row.items()} for name, row in rows.items()}}))


if __name__ == "__main__":
    main()
