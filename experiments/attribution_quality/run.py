"""Do token scores find what people marked as toxic? Scorers, poolings, students and other means.

    IFGUIDE_DATASETS=... python experiments/attribution_quality/run.py [size=sample] [render=true] [override ...]

Variants (`variants.yaml`) are chosen on the corpus of `+experiment=real_text` (SemEval's training posts) and reported
on a corpus of other text (`data=annotated_posts`: SemEval's trial posts, HateXplain) that the proxy never saw, and on
short texts. `size=sample` takes the built-in sample instead of the first and leaves out the rest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ifguide.corpus.blocks import LABELS
from ifguide.corpus.build import tokens_in_spans
from ifguide.corpus.documents import TOXIC
from ifguide.corpus.masks import jaccard
from ifguide.corpus.records import read_records
from ifguide.corpus.tokenizers import token_texts
from ifguide.corpus.words import WORD, word_log_odds
from ifguide.evaluation.attribution import known_tokens
from ifguide.evaluation.contrasts import Contrasts, contrast_quality, read_contrasts
from ifguide.evaluation.token_baselines import BM25, bm25_of_types
from ifguide.influence.pooling import type_sums
from ifguide.report import attribution as plots
from ifguide.report.experiment import Experiment, publish
from ifguide.report.token_page import page_documents
from ifguide.report.wording import TOXICITY
from ifguide.stages.study import Scores, Study
from ifguide.statistics import precision_recall, ratio_interval
from ifguide.workspace import as_override

LISTS = yaml.safe_load(Path(__file__).with_name("variants.yaml").read_text(encoding="utf-8"))
KEY, EXACT = "precision_at_0.01", "exact (`jvp`)"
ANNOTATORS = 3


def variants(names: Sequence[str]) -> dict[str, list[str]]:
    return {name: LISTS["variants"][name] for name in names}


def measure(experiment: Experiment) -> dict[str, Any]:
    small = experiment.options["size"] == "sample"
    names = LISTS["sample"]["variants"] if small else list(LISTS["variants"])
    corpus = LISTS["sample"]["overrides"] if small else ["+experiment=real_text"]
    study = Study(experiment, "development", variants(names), *corpus)
    scores = {name: study.scores(name) for name in names} | study.baselines()
    rows = {name: {**study.quality(values), "share": study.share(name)} for name, values in scores.items()}
    masked = [name for name in names if name in LISTS["shown"]]
    plot_development(study, scores, rows, masked)
    ours = f"amortised from {10 if small else 5} %"
    results: dict[str, Any] = {
        "size": experiment.options["size"], "ours": ours, "exact": EXACT, "rows": rows,
        "lexical": study.differences(scores, [EXACT, ours]), "students": study.held_out(),
        "tokens": int(study.split.shape[0] * study.split.shape[1]),
        "masks": {name: mask_quality(study, name) for name in masked}, "types": top_types(study, scores[names[0]]),
        "documents": [
            {"name": one.name, "label": one.label or "not labelled", "selected": sum(one.selected),
             "sum": float(np.dot(one.scores, one.selected))}
            for one in page_documents(study.corpus, study.split, scores[EXACT], study.mask(EXACT), TOXICITY)[:10]
        ],
        "figures": {"best": max(names, key=lambda name: rows[name][KEY]), **rows},
    }  # fmt: skip
    return results if small else results | report(experiment, study)


def report(experiment: Experiment, study: Study) -> dict[str, Any]:
    """What is measured on text that the variants were not chosen on."""
    datasets, new_text = Path(study.configuration().paths.datasets), LISTS["new_text"]
    means = agreement(study, new_text, datasets)
    by_annotators = {name: [(float(count), *one) for count, one in enumerate(found)] for name, found in means.items()}
    labels = ("annotators who marked the token", "mean percentile of its score")
    plots.plot_intervals(by_annotators, experiment.output / "agreement.png", labels=labels, reference=0.5)
    cases = {title: case_quality(study, new_text, found) for title, found in read_contrasts(datasets).items()}
    places = study.base.artifacts  # other text, scored with the same proxy, which is not trained further
    other = Study(
        experiment, "reported", variants(LISTS["reported"]), "+experiment=real_text", "data=annotated_posts",
        f"data.tokenizer.path={as_override(places['data'] / 'tokenizer')}",
        f"proxy.pretrained={study.base.typed('proxy')}", "proxy_optim.epochs=0",
    )  # fmt: skip
    scores = {name: other.scores(name) for name in LISTS["reported"]} | other.baselines()
    reported = {
        title: {"lexical": other.differences(scores, [EXACT, "amortised from 5 %"], source),
                "rows": {name: {**other.quality(values, source), "share": other.share(name)}
                         for name, values in scores.items()}}
        for source, title in (("toxic_spans", "SemEval trial posts"), ("hatexplain", "HateXplain posts"))
    }  # fmt: skip
    return {"agreement": means, "cases": cases, "reported": reported}


def plot_development(study: Study, scores: dict[str, Scores], rows: dict[str, Any], masked: list[str]) -> None:
    folder, share = study.experiment.output, rows[EXACT]["annotated_share"]
    known = known_tokens(study.split)
    known[:, 0] = False
    curves = {name: precision_recall(values[known], study.annotation[known])
              for name, values in scores.items() if name in masked or name not in study.runs}  # fmt: skip
    plots.plot_precision_recall(curves, share, folder / "precision_recall.png", title="where variants were chosen")
    masks = [study.mask(name) for name in masked]
    plots.plot_mask_overlap(
        masked, np.array([[jaccard(a, b) for b in masks] for a in masks]), folder / "mask_overlap.png"
    )
    cost = {name: (rows[name]["share"], rows[name][KEY], rows[name][f"{KEY}_interval"]) for name in study.runs
            if name == EXACT or (name.startswith("amortised from") and "," not in name)}  # fmt: skip
    plots.plot_cost(cost, folder / "cost.png", label="precision at the top 1 %")


def mask_quality(study: Study, name: str) -> dict[str, float]:
    """What Algorithm 1 selects from a variant's scores."""
    mask, split = study.mask(name)[:], study.split
    toxic = split.documents["label"][split.documents_of(np.flatnonzero(mask))] == LABELS[TOXIC]
    return {
        "tokens": int(mask.sum()), "in toxic posts": float(toxic.mean()),
        "in toxic spans, of those where spans are known": float(study.annotation[mask & known_tokens(split)].mean()),
        "of toxic spans": float(mask[study.annotation].mean()),
    }  # fmt: skip


def top_types(study: Study, scores: Scores, count: int = 40) -> list[str]:
    """Token types with the highest pooled score, their inner letters masked."""
    sums, counts = type_sums(scores[None], study.split.tokens, study.corpus.vocabulary)
    texts = token_texts(study.tokenizer)
    words = [texts[index].strip() or "␣" for index in np.argsort(-(sums[0] / (counts + 20)))[:count]]
    return [word if len(word) < 3 else f"{word[0]}{'*' * (len(word) - 2)}{word[-1]}" for word in words]


def agreement(study: Study, names: Sequence[str], datasets: Path) -> dict[str, list[tuple[float, float, float]]]:
    """Variant → for 0, 1, 2, 3 annotators of HateXplain: mean percentile of the score among all tokens of posts that
    most of them judged toxic, and its 95 % interval over posts."""
    posts: list[tuple[list[str], NDArray[np.int64]]] = []  # words, and how many annotators marked each
    for record in (row.values for row in read_records(datasets / "hatexplain" / "val.jsonl.gz")):
        toxic = sum(label != 1 for label in record["annotators"]["label"])
        if 2 * toxic > ANNOTATORS and record["rationales"]:
            posts.append((record["post_tokens"], np.sum(record["rationales"], axis=0)))
    ids, inside, encodings = study.encode([" ".join(words) for words, _ in posts])
    marks = np.where(inside, 0, -1)
    for row, ((words, counts), encoding) in enumerate(zip(posts, encodings, strict=True)):
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        for count in range(1, ANNOTATORS + 1):
            spans = tuple((int(end) - len(word), int(end)) for word, end, c in zip(words, ends, counts, strict=True)
                          if c >= count)  # fmt: skip
            marks[row, 1 : 1 + len(encoding.ids)][tokens_in_spans(encoding.offsets, spans)] = count
    result = {}
    for name in names:
        percentile = np.zeros(ids.shape)
        ranks = study.score_text(name, ids)[inside].argsort(kind="stable").argsort(kind="stable")
        percentile[inside] = ranks / (inside.sum() - 1)
        members = [marks == count for count in range(ANNOTATORS + 1)]
        parts = [((percentile * member).sum(1), member.sum(1)) for member in members]
        result[name] = [(float(sums.sum() / counts.sum()), *ratio_interval(sums, counts)) for sums, counts in parts]
    return result


def case_quality(study: Study, names: Sequence[str], cases: Contrasts) -> dict[str, dict[str, float]]:
    """Quality of sums of scores over short texts, and of what else could tell."""
    ids, inside, _ = study.encode(cases.texts)
    sums = study.text_sums(names, ids, inside)
    words = word_log_odds(study.queries)
    odds = [sum(words.get(word.lower(), 0.0) for word in WORD.findall(text)) for text in cases.texts]
    sums["word list: log-odds between queries"] = np.array(odds)
    sums[BM25] = (bm25_of_types(study.split, study.tokenizer, study.queries)[ids] * inside).sum(1)
    sums["classifier on the whole text"] = study.classifier()(cases.texts)["toxicity"]
    return {name: contrast_quality(total, cases) for name, total in sums.items()}


if __name__ == "__main__":
    publish(__file__, measure, size="real_text")
