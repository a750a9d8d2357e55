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
from pathlib import Path

import numpy as np
from agreement import agreement
from cases import case_quality, contrast_cases
from study import VARIANTS, Study
from tables import (
    KEY,
    agreement_table,
    case_findings,
    findings,
    mask_quality,
    plain_table,
    table,
    top_documents,
    top_types,
)

from ifguide.corpus.masks import jaccard
from ifguide.evaluation.attribution import known_tokens
from ifguide.report.attribution import (
    plot_agreement,
    plot_cost,
    plot_mask_overlap,
    plot_precision_recall,
    precision_recall,
)

HERE = Path(__file__).parent
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
