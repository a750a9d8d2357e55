"""How far does IF-Guide go, and at what price? Every limit L with every penalty λ.

    python experiments/real_text/frontier.py [size=real_text|sample] [limits=0.01,0.02,0.04,0.08] [penalties=0.3,1,2,3]
        [seeds=1,2,3] [render=true] [override ...]

All continue one uncensored model, as the rows of `experiments/rivals` do, and are tried on validation prompts and text;
of those within the tolerance of perplexity, the least toxic one is reported on test prompts and with other seeds.
"""

from typing import Any

from ifguide.report.attribution import plot_trade_off
from ifguide.report.experiment import Experiment, facts_of, publish
from ifguide.report.formats import markdown
from ifguide.report.gather import Run
from ifguide.report.rows import compare_rows

TOLERANCE = 1.02  # of benign perplexity
CORPUS = {"real_text": ["+experiment=real_text"], "sample": []}
ROWS = {"real_text": "rivals_real_text", "sample": "rivals"}


def point(run: Run) -> tuple[float, float]:
    """Benign perplexity and toxic fraction."""
    metrics = facts_of(run)["metrics"]
    return metrics["perplexity"]["benign"]["perplexity"], metrics["toxicity"]["all"]["toxic_fraction"]


def measure(experiment: Experiment) -> dict[str, Any]:
    size, limits, penalties, seeds = (experiment.options[key] for key in ("size", "limits", "penalties", "seeds"))
    start = experiment.run("start", *CORPUS[size], "method=none", "stage=model", "seed=0").typed("model")
    tried = [f"+experiment={ROWS[size]}_validation", f"start={start}", "seed=0", "tuning.setting=null"]
    base, uncensored = point(experiment.run("validation/none", *tried, "method=none"))
    curves: dict[str, list[tuple[str, list[float], list[float]]]] = {}
    points = []
    for limit in map(float, limits.split(",")):  # half of the tokens are above the threshold, half are beside one
        shared = [f"selection.limit={limit}", f"selection.quantile={1 - limit / 2}"]
        swept = [*tried, "method=ifguide", *shared, f"objective.penalty={penalties}"]
        for run in experiment.sweep(f"validation/{limit}", *swept):
            penalty, (perplexity, toxic) = run.setting("objective.penalty"), point(run)
            points.append({"limit": limit, "penalty": penalty, "perplexity": perplexity, "toxic_fraction": toxic,
                           "settings": [*shared, f"objective.penalty={penalty}"]})  # fmt: skip
            place = (f"λ = {penalty}", [100 * perplexity / base - 100], [toxic])
            curves.setdefault(f"L = {100 * limit:g}%", []).append(place)
    labels = ("benign perplexity above the uncensored, %", "toxic fraction (validation prompts)")
    plot_trade_off(curves, experiment.output / "frontier.png", labels=labels, log=True)
    within = [one for one in points if one["perplexity"] <= TOLERANCE * base]
    best = min(within or points, key=lambda one: (one["toxic_fraction"], one["perplexity"]))
    test = [f"+experiment={ROWS[size]}", f"start={start}", f"seed={seeds}"]
    runs = [run for name, given in (("none", []), ("ifguide", best["settings"]))
            for run in experiment.sweep(f"test/{name}", *test, f"method={name}", *given)]  # fmt: skip
    comparison = compare_rows(runs, by=["method"])
    return {
        "size": size, "seeds": seeds.split(","), "tolerance": TOLERANCE, "base": base, "uncensored": uncensored,
        "points": points, "best": best, "within": bool(within), "table": markdown(comparison),
        "figures": {"points": points, "best": best},
    }  # fmt: skip


if __name__ == "__main__":
    defaults = {"limits": "0.01,0.02,0.04,0.08", "penalties": "0.3,1,2,3", "seeds": "1,2,3"}
    publish(__file__, measure, page="frontier.md", size="real_text", **defaults)
