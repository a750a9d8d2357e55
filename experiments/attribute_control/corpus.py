"""The corpus of the paper, ToxiGen and WikiText: what is said after learning it, plainly or with a regulariser?

    IFGUIDE_DATASETS=... python experiments/attribute_control/corpus.py [judge=folder] [seeds=1] [render=true]
        [override ...]

All rows continue the uncensored model of `+experiment=real_text`. `judge`: a language model that compares them.
"""

from pathlib import Path
from typing import Any

from ifguide.report.experiment import Experiment, compare_named, facts_of, page_of, publish
from ifguide.report.judged import with_win_rates
from ifguide.stages.commands import judged
from ifguide.stages.configuration import saved
from ifguide.workspace import as_override

CONTROL = ("method=attribute_control", "optim.epochs=0", "post_training.optim.epochs=1.5",
           "post_training.optim.batch_size=32")  # fmt: skip
ROWS = {
    "none": ("method=none",), "as it was": ("method=none", "optim.epochs=0"),
    **{method: (f"method={method}",) for method in ("toxicity_filter", "rl", "nado")}, "attribute_control": CONTROL,
    "attribute_control of ToxiGen alone": (*CONTROL, "post_training.sources=[toxigen,toxigen_neutral]"),
}  # fmt: skip


def measure(experiment: Experiment) -> dict[str, Any]:
    start = experiment.run("start", "+experiment=real_text", "method=none", "stage=model").artifacts
    judge, seeds = experiment.options["judge"], experiment.options["seeds"].split(",")
    common = ["+experiment=toxigen_wikitext", f"start={as_override(start['model'])}",
              f"tokenizer={as_override(start['data'] / 'tokenizer')}"]  # fmt: skip
    common += ["judge=quality", f"judge.pretrained={as_override(judge)}"] if judge else []
    names = [(name, seed) for seed in seeds for name in ROWS]
    runs = [experiment.run(f"{name}/{seed}", *common, *ROWS[name], f"seed={seed}") for name, seed in names]
    comparison = compare_named(runs, [name for name, _ in names])
    if judge:
        cfg = saved(Path(runs[0].place))
        comparison = with_win_rates(comparison, lambda ours, theirs: judged(cfg, ours, theirs))
    return {"seeds": seeds, "judge": Path(judge).name, "first": facts_of(runs[0], "tasks.toxicity.samples"),
            **page_of(comparison)}  # fmt: skip


if __name__ == "__main__":
    publish(__file__, measure, page="corpus.md", judge="", seeds="1")
