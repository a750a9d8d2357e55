"""Do scores find a behaviour that no word gives away?

    python experiments/nonlexical/run.py [render=true] [override ...]

Runs `+experiment=nonlexical`: posts in a few of which clauses have another order of the same words, which is what the
queries show. Exact, pooled and amortised scores, and lexical baselines, are held against the inverted tokens and the
documents that have some.
"""

from typing import Any

from ifguide.evaluation.attribution import document_quality
from ifguide.report.experiment import Experiment, publish
from ifguide.stages.study import Study
from ifguide.workspace import read_manifest

EXACT, OURS = "exact (`jvp`)", "amortised from 10 %, words"
VARIANTS = {
    EXACT: ["pooling=none"], "pooled by type": ["pooling=type"], "pooled by word and context": ["pooling=word_context"],
    OURS: ["student=words", "student.share=0.1"],
    "amortised from 10 %, convolutions": ["student=convolution", "student.share=0.1"],
}  # fmt: skip


def measure(experiment: Experiment) -> dict[str, Any]:
    study = Study(experiment, "runs", VARIANTS, "+experiment=nonlexical")
    scores = {name: study.scores(name) for name in VARIANTS} | study.lexical_baselines()
    rows = {name: study.quality(values) | document_quality(study.split, values) for name, values in scores.items()}
    return {
        "exact": EXACT, "tokens": scores[EXACT].size, "rows": rows,
        "lexical": study.differences(scores, [EXACT, OURS]),
        "students": study.held_out(),
        "proxy": read_manifest(study.base.artifacts["factors"])["facts"],
        "figures": {name: {key: row[key] for key in ("roc_auc", "precision_at_0.01", "documents")}
                    for name, row in rows.items()},
    }  # fmt: skip


if __name__ == "__main__":
    publish(__file__, measure)
