"""Learning from toxic text without speaking it: a model learns to say what is offensive; what does it write then?

    IFGUIDE_DATASETS=... python experiments/attribute_control/classification.py [weight=1] [seeds=1] [render=true]
        [override ...]

All rows continue the uncensored model of `+experiment=real_text` for one pass over `+experiment=answers`.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.blocks import Corpus
from ifguide.influence.top import TopTokens
from ifguide.report.experiment import Experiment, facts_of, publish
from ifguide.report.gather import Run
from ifguide.stages.influence import Mask
from ifguide.stages.stage import Existing
from ifguide.stages.study import Baseline, built
from ifguide.workspace import Workspace, as_override

ROUNDS = 2  # of half a pass each


def all_but_answers(folder: Path) -> Path:
    """The mask of everything that is no answer in a corpus."""
    data = Existing(folder=folder, stage="data")
    answers: NDArray[np.bool_] = Corpus(folder).split("train").annotation[:]
    outside = ~answers
    outside[:, 0] = False
    scores = Baseline(data=data, proxy=data, means="no answer", queries=[], compute=lambda: outside.astype(np.float32))
    top = TopTokens(limit=(int(outside.sum()) + 0.5) / outside.size)
    mask = Mask(scores=scores, data=data, behaviours=["toxicity"], selection=top)
    return built(mask, Workspace(folder.parent)).path


def row_of(run: Run) -> dict[str, Any]:
    metrics = facts_of(run)["metrics"]
    toxicity, answers = metrics["toxicity"]["all"], metrics["answers"]["all"]
    return {
        "toxic_fraction": toxicity["toxic_fraction"], "toxic_fraction_interval": toxicity["toxic_fraction_interval"],
        "roc_auc": answers["roc_auc"], "roc_auc_interval": answers["roc_auc_interval"], "judged": answers["judged"],
        "perplexity": metrics["perplexity"]["benign"]["perplexity"],
    }  # fmt: skip


def measure(experiment: Experiment) -> dict[str, Any]:
    weight, seeds = experiment.options["weight"], experiment.options["seeds"].split(",")
    start = experiment.run("start", "+experiment=real_text", "method=none", "stage=model").artifacts
    common = ("+experiment=answers", f"start={as_override(start['model'])}",
              f"tokenizer={as_override(start['data'] / 'tokenizer')}")  # fmt: skip
    control = ("method=attribute_control", "optim.epochs=0", f"post_training.weight={weight}",
               f"post_training.rounds={ROUNDS}", f"post_training.optim.epochs={1 / ROUNDS}",
               "post_training.optim.batch_size=32")  # fmt: skip
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        tuned = experiment.run(f"tuned/{seed}", *common, "method=none", f"seed={seed}")
        mask = as_override(all_but_answers(tuned.artifacts["data"]))
        for name, given in {
            "as it was": ("method=none", "optim.epochs=0"),
            "fine-tuning on texts and answers": ("method=none",),
            "the same, attribute-controlled": control,
            "fine-tuning on answers alone": ("method=token_filter", f"paths.mask={mask}"),
        }.items():
            run = experiment.run(f"{name}/{seed}", *common, *given, f"seed={seed}")
            rows.setdefault(name, []).append(row_of(run))
    means = {name: {key: float(np.mean([one[key] for one in found])) for key in ("toxic_fraction", "roc_auc")}
             for name, found in rows.items()}  # fmt: skip
    return {"weight": weight, "seeds": seeds, "rows": rows, "means": means, "figures": means}


if __name__ == "__main__":
    publish(__file__, measure, page="classification.md", weight="1", seeds="1")
