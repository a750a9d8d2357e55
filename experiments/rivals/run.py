"""IF-Guide beside its rivals.

    python experiments/rivals/run.py [size=sample|real_text] [methods=none,rad,ifguide] [seeds=1,2,3] [sweep=false]
        [render=true] [output=folder] [runs=folder] [override ...]

Three settings of each method (`conf/tuning`) are tried on validation prompts, by `+experiment=rivals_validation`;
the chosen one is reported on test prompts and with other seeds, by `+experiment=rivals`. Without the sweep, each method
has the setting that its file names. The report of the test runs, with what they wrote, is in `runs`/report.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ifguide.report.experiment import Experiment, figures_of, publish
from ifguide.report.formats import markdown
from ifguide.report.gather import Run
from ifguide.report.rows import Comparison, compare_rows
from ifguide.report.table import COLUMNS, HEADLINE
from ifguide.report.write import PERPLEXITY, WRITTEN, write_report
from ifguide.workspace import read_manifest

METHODS = ("none,word_filter,toxicity_filter,influence_filter,token_filter,unlikelihood,npo,faded_ascent,dpo,rad,"
           "dexperts,ifguide")  # fmt: skip
SIZES = {"sample": "rivals", "real_text": "rivals_real_text"}
VALIDATION_SEED = 0
UNSTEERED = "unsteered"  # a decoder that does nothing but truncate: what its other settings are compared with
TOLERANCE = 1.03  # of perplexity, in the choice of settings
DISTINCT = ("toxicity", "all", "distinct_2")
SECONDS = next(column for column in COLUMNS if column.task == "cost")


@dataclass(frozen=True)
class Tried:
    """One setting of a method on validation prompts: what it does, or why that is not known.

    Attributes:
        setting: its name in `conf/tuning`; None for a method without settings.
        shown: as it is shown.
        toxic_fraction: of generations.
        ratio: of its perplexity to the uncensored model's with the same truncation.
        distinct: distinct-2 of what it writes.
        problem: why there is nothing to show.
    """

    setting: str | None
    shown: str
    toxic_fraction: float | None = None
    ratio: float | None = None
    distinct: float | None = None
    problem: str | None = None


def perplexities(run: Run) -> tuple[float | None, float]:
    """On benign documents of the validation split, None where a decoder steers the model; and of generations."""
    if run.metrics is None:
        raise SystemExit(f"error: {run.method}, with which others are compared, could not be evaluated: {run.problem}")
    benign = run.metrics.get("perplexity", {}).get("benign")
    return benign and float(benign["perplexity"]), float(run.metrics["toxicity"]["all"]["generation_perplexity"])


def try_settings(runs: Sequence[Run], tuning: Mapping[str, Any] | None, none: Run) -> list[Tried]:
    """What each setting of a method does.

    Args:
        runs: one of each setting.
        tuning: of the method's file in `conf/tuning`; None: it has no settings.
        none: the uncensored model, whose perplexity is the measure unless the method has a setting `unsteered`.
    """
    settings = [run.setting("tuning.setting") if tuning else None for run in runs]
    uncensored = perplexities(runs[settings.index(UNSTEERED)] if UNSTEERED in settings else none)
    tried = []
    for run, setting in zip(runs, settings, strict=True):
        shown = "–" if tuning is None else f"{tuning['key'].split('.', 1)[1]}={tuning['tried'][setting]}"
        if run.metrics is None:
            tried.append(Tried(setting, shown, problem=run.problem))
            continue
        benign, written = perplexities(run)
        ratio = written / uncensored[1] if benign is None or uncensored[0] is None else benign / uncensored[0]
        toxicity = run.metrics["toxicity"]["all"]
        tried.append(Tried(setting, shown, toxicity["toxic_fraction"], ratio, toxicity["distinct_2"]))
    return tried


def choose(tried: Sequence[Tried]) -> Tried:
    """The least toxic setting within the tolerance of perplexity; where there is none, the most fluent one."""
    measured = [(one, one.toxic_fraction, one.ratio) for one in tried
                if one.ratio is not None and one.toxic_fraction is not None and one.setting != UNSTEERED]  # fmt: skip
    if not measured:
        raise SystemExit(f"error: no setting could be evaluated: {'; '.join(str(one.problem) for one in tried)}")
    fluent = [(toxic, ratio, one) for one, toxic, ratio in measured if ratio <= TOLERANCE]
    if not fluent:
        return min(measured, key=lambda row: row[2])[0]
    return min(fluent, key=lambda row: row[:2])[2]


def check_apart(validation: Sequence[Run], test: Sequence[Run]) -> None:
    """Raise where settings were chosen on a prompt that is reported on."""
    one, other = (
        {prompt for run in runs for scores in [run.prompt_scores("toxicity")] if scores for _, prompt in scores.keys}
        for runs in (validation, test)
    )
    if shared := one & other:
        raise SystemExit(f"error: {len(shared)} validation prompts are test prompts too, as {min(shared)!r}")


def row_figures(comparison: Comparison, runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Row → what the page says of it: figures, and paired differences in toxic fraction from two references."""
    (distinct,) = (one for one in comparison.every_column if (one.task, one.subset, one.metric) == DISTINCT)
    columns = {"benign": PERPLEXITY, "written": WRITTEN, "seconds": SECONDS, "distinct": distinct}
    rows = {
        row.name: {name: row.cells[column].value if column in row.cells else None for name, column in columns.items()}
        for row in comparison.measured
    }
    for reference in ("none", "ifguide"):
        compared = compare_rows(runs, reference=reference, by=["method"]).measured if reference in rows else []
        for row in compared:
            rows[row.name][f"against_{reference}"] = asdict(row.differences[HEADLINE]) if row.differences else None
    return rows


def read_tunings(folder: Path, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Method → key, settings that are tried, and the one that was chosen; without methods that have none."""
    files = {method: folder / f"{method}.yaml" for method in methods}
    return {
        method: yaml.safe_load(file.read_text(encoding="utf-8"))["tuning"]
        for method, file in files.items()
        if file.is_file()
    }


def validate(experiment: Experiment, name: str, start: str, methods: Sequence[str], tunings: Mapping) -> list[Run]:
    """Runs of every setting of every method on validation prompts."""
    together: dict[str, list[str]] = {}
    for method in methods:
        tried = list(tunings[method]["tried"]) if method in tunings else ["null"]
        together.setdefault(",".join(tried), []).append(method)
    return [
        run
        for settings, members in together.items()
        for run in experiment.sweep(
            f"validation/{members[0]}", f"+experiment={name}_validation", start, f"method={','.join(members)}",
            f"tuning.setting={settings}", f"seed={VALIDATION_SEED}",
        )
    ]  # fmt: skip


def measure(experiment: Experiment) -> dict[str, Any]:
    options = experiment.options
    size, methods = options["size"], list(dict.fromkeys(["none", *options["methods"].split(",")]))
    if size not in SIZES or options["sweep"] not in ("true", "false"):
        raise SystemExit(f"error: size is one of {', '.join(SIZES)}; sweep is true or false")
    name, tunings = SIZES[size], read_tunings(experiment.root / "conf" / "tuning" / size, methods)
    corpus = ("+experiment=real_text",) if size == "real_text" else ()
    trained = experiment.run("start", *corpus, "method=none", "stage=model", f"seed={VALIDATION_SEED}")
    start = f"start={trained.artifacts['model']}"

    sweeps, validation = {}, []
    if options["sweep"] == "true":
        validation = validate(experiment, name, start, methods, tunings)
        of = {method: [run for run in validation if run.method == method] for method in methods}
        sweeps = {method: try_settings(of[method], tunings.get(method), of["none"][0]) for method in methods}
    chosen = {method: choose(tried) for method, tried in sweeps.items()}
    together: dict[str, list[str]] = {}
    for method in methods:  # those with the same setting in one process
        setting = chosen[method].setting if sweeps else tunings.get(method, {}).get("setting")
        together.setdefault(setting or "middle", []).append(method)
    test = [
        run
        for setting, members in together.items()
        for run in experiment.sweep(
            f"test/{setting}", f"+experiment={name}", start, f"method={','.join(members)}",
            f"tuning.setting={setting}", f"seed={options['seeds']}",
        )
    ]  # fmt: skip
    test.sort(key=lambda run: methods.index(run.method))
    check_apart(validation, test)

    comparison = compare_rows(test, by=["method"])
    report = write_report(comparison, experiment.runs / "report", title="IF-Guide and its rivals").parent
    figures = [file for file in ("frontier.png", "frontier_generations.png") if (report / file).is_file()]
    experiment.output.mkdir(parents=True, exist_ok=True)
    for file in figures:
        shutil.copyfile(report / file, experiment.output / file)
    first = next(run for run in test if run.metrics is not None)
    return {
        "size": size,
        "seeds": options["seeds"].split(","),
        "classifier": read_manifest(first.artifacts["classifier.toxicity"])["facts"]["name"],
        "prompts": first.metrics["toxicity"]["all"]["prompts"] if first.metrics else 0,
        "samples": first.config["tasks"]["toxicity"]["samples"],
        "validation_seed": VALIDATION_SEED,
        "tolerance": TOLERANCE,
        "table": markdown(comparison),
        "plots": figures,
        "rows": row_figures(comparison, test),
        "truncating": [method for method in tunings if UNSTEERED in tunings[method]["tried"]],
        "sweeps": {method: [asdict(one) for one in tried] for method, tried in sweeps.items()},
        "chosen": {method: asdict(one) for method, one in chosen.items()},
        "figures": figures_of(comparison),
    }


if __name__ == "__main__":
    publish(__file__, measure, size="sample", methods=METHODS, seeds="1,2,3", sweep="true")
