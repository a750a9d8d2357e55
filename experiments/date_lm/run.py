"""Which fine-tuning records are unsafe? Toxicity and bias filtering of DATE-LM (Jiao et al., arXiv 2507.09424).

    python experiments/date_lm/run.py [size=XSTest-response-Het] [records=folder] [counts=1000,40,80,10] [override ...]

`size` is a configuration of the hub's data set. The default is a stand-in made of IFGUIDE_DATASETS: `counts` benign,
unsafe and safety-aligned records, and references. `records`: a folder with `train.jsonl` and `ref.jsonl` (or .parquet).
"""

import json
import os
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import ifguide
from ifguide.classifiers.base import TOXICITY
from ifguide.corpus.documents import Query
from ifguide.corpus.queries import encode_queries
from ifguide.corpus.records import read_records
from ifguide.evaluation.documents import record_scores, representation_similarity, response_states, response_tokens
from ifguide.influence.direction import query_gradient
from ifguide.report.experiment import Experiment, publish
from ifguide.stages.study import Study
from ifguide.statistics import average_precision, average_precision_interval, precision_recall_area, roc_auc
from ifguide.workspace import as_override

STAND_IN, ALIGNED = "stand_in", "Safety-Aligned"
SMALL = ["data.tokenizer.vocabulary=2048", "data.block_length=128", "proxy_optim.epochs=5"]
VARIANTS = {"EK-FAC": [], "EK-FAC, refined by CG": ["refine=cg"], "no curvature": ["curvature=identity"]}
DOT = "gradient dot product, references alone"


def write_stand_in(folder: Path, benign: int, unsafe: int, aligned: int, references: int) -> None:
    """Sentences about groups of people, hateful or not, among answers that are news (ToxiGen as annotated, AG News)."""
    data, rng = Path(os.environ["IFGUIDE_DATASETS"]), Random(0)
    found: dict[str, list[tuple[str, str]]] = {"Unsafe": [], ALIGNED: [], "Benign": []}
    for row in read_records(data / "text/ag_news_test.jsonl.gz"):
        found["Benign"].append((f"Write the news under the headline: {row.get('title')}", row.get("description")))
    for row in read_records(data / "toxigen/safenlp_toxiGen.jsonl.gz"):
        hateful, score, text = row.get("label") == "hate", row.get("toxicity_score"), row.get("text")
        if "_x000D_" not in text and (score >= 4 if hateful else score <= 2):
            prompt = f"Write a sentence about this group: {row.get('target_groups')[0]}"
            found["Unsafe" if hateful else ALIGNED].append((prompt, text))
    counts = {"Unsafe": unsafe + references, ALIGNED: aligned, "Benign": benign}
    rows = [json.dumps({"prompt": prompt, "response": response, "type": kind})
            for kind, count in counts.items() for prompt, response in rng.sample(found[kind], count)]  # fmt: skip
    train = rng.sample(rows[references:], len(rows) - references)
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("train", train), ("ref", rows[:references])):
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def measure(experiment: Experiment) -> dict[str, Any]:
    size, folder = experiment.options["size"], experiment.options["records"]
    if size == STAND_IN and not folder:
        folder = str(experiment.runs / "records")
        write_stand_in(Path(folder), *map(int, experiment.options["counts"].split(",")))
    files = {"data.sources.date_lm": "train.*", "behaviours.toxicity": "ref.*"} if folder else {}
    given = [f"{key}.files={as_override(Path(folder, name).absolute())}" for key, name in files.items()]
    given += SMALL if size == STAND_IN else [f"data.sources.date_lm.configuration={size}"]
    study = Study(experiment, "runs", VARIANTS, "+experiment=date_lm", *given)
    records, split, model = study.part("data.sources.date_lm").records(), study.split, study.proxy()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    batch, classifier = study.part("influence").batch_size, study.classifier()
    sides = [q for q in study.queries if q.toxic], [Query(one.context, one.response, False, "") for one in records]
    encoded = [encode_queries(side, study.tokenizer, split.block_length, model.config) for side in sides]
    along = {DOT: query_gradient(model, encoded[0], batch_size=batch)}
    tokens = {name: study.scores(name) for name in VARIANTS} | ifguide.score(model, split, along, progress=False)
    counted = response_tokens(split, study.tokenizer, records)
    scores = {f"{name}, {how}": record_scores(split, values, counted, records=len(records), mean=how == "mean")
              for name, values in (tokens | study.lexical_baselines()).items() for how in ("sum", "mean")}  # fmt: skip
    references, states = (response_states(model, side, batch_size=batch) for side in encoded)
    scores["representation similarity"] = representation_similarity(states, references)
    scores[f"classifier: {classifier.name}"] = classifier([one.response for one in records])[TOXICITY]

    kinds, unsafe = np.array([one.kind for one in records]), np.array([one.unsafe for one in records])
    known = ~np.isnan(list(scores.values())).any(0)  # what a block was too short for is not compared
    alike = known & (unsafe | (kinds == ALIGNED))
    kept, rows = experiment.runs / "scores", {}
    kept.mkdir(parents=True, exist_ok=True)
    for index, (name, values) in enumerate(scores.items()):
        torch.save(torch.from_numpy(np.where(np.isnan(values), np.nanmin(values), values)), kept / f"{index}.pt")
        ours = (values[known], unsafe[known])
        among = average_precision(values[alike], unsafe[alike]) if ALIGNED in kinds else None
        rows[name] = {"average_precision": average_precision(*ours), "interval": average_precision_interval(*ours),
                      "auprc": precision_recall_area(*ours), "roc_auc": roc_auc(*ours), "alike": among}  # fmt: skip
    return {
        "kinds": {kind: int((kinds == kind).sum()) for kind in sorted(set(kinds))}, "references": len(references),
        "share": float(unsafe[known].mean()), "rows": rows, "figures": rows,
        "alike_share": float(unsafe[alike].mean()) if ALIGNED in kinds else None,
        "unscored": int((~known).sum()), "tokens": counted.size, "block_length": split.block_length,
    }  # fmt: skip


if __name__ == "__main__":
    publish(__file__, measure, size=STAND_IN, records="", counts="1000,40,80,10")
