"""IF-Guide beside its rivals.

    python experiments/rivals/run.py [size=sample|real_text] [methods=none,rad,ifguide] [seeds=1,2,3] [sweep=false]
        [render=true] [output=folder] [runs=folder] [override ...]

Three settings of each method (`conf/tuning`) are tried on validation prompts, by `+experiment=rivals_validation`;
the chosen one is reported on test prompts and with other seeds, by `+experiment=rivals`. Without the sweep, each method
has the setting that its file names. The report of the test runs, with what they wrote, is in `runs`/report.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ifguide.report.choice import TOLERANCE, UNSTEERED, check_apart, choose, try_settings
from ifguide.report.experiment import Experiment, facts_of, figures_of, publish, rows_of
from ifguide.report.formats import markdown
from ifguide.report.gather import Run
from ifguide.report.rows import compare_rows

SIZES = {"sample": "rivals", "real_text": "rivals_real_text"}
VALIDATION_SEED = 0


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def launch(
    experiment: Experiment, part: str, configuration: str, start: str, settings: Mapping[str, str | None], seeds: str
) -> dict[str, list[Run]]:
    """Method → its runs, those that failed too; methods with the same settings run in one process.

    Args:
        part: name of their folder.
        configuration: in `conf/experiment`.
        start: the override that names the uncensored model.
        settings: method → names in `conf/tuning`, with commas between, as seeds; None: the one that its file has.
    """
    together: dict[str | None, list[str]] = {}
    for method, setting in settings.items():
        together.setdefault(setting, []).append(method)
    found = [
        run
        for setting, methods in together.items()
        for run in experiment.sweep(
            f"{part}/{methods[0]}", f"+experiment={configuration}", start, f"method={','.join(methods)}",
            f"seed={seeds}", *([] if setting is None else [f"tuning.setting={setting}"]),
        )
    ]  # fmt: skip
    return {method: [run for run in found if run.method == method] for method in settings}


def measure(experiment: Experiment) -> dict[str, Any]:
    size, conf = experiment.options["size"], experiment.root / "conf"
    if size not in SIZES or experiment.options["sweep"] not in ("true", "false"):
        raise SystemExit(f"error: size is one of {', '.join(SIZES)}; sweep is true or false")
    every = read(conf / "experiment" / "rivals.yaml")["hydra"]["sweeper"]["params"]
    asked = (experiment.options["methods"] or every["method"]).split(",")
    methods, seeds = list(dict.fromkeys(["none", *asked])), experiment.options["seeds"] or every["seed"]
    files = {method: conf / "tuning" / size / f"{method}.yaml" for method in methods}
    tunings = {method: read(file)["tuning"] for method, file in files.items() if file.is_file()}
    corpus = ("+experiment=real_text",) if size == "real_text" else ()
    trained = experiment.run("start", *corpus, "method=none", "stage=model", f"seed={VALIDATION_SEED}")
    start = f"start={trained.artifacts['model']}"

    validation, sweeps = {}, {}
    if experiment.options["sweep"] == "true":
        grids = {method: ",".join(tunings[method]["tried"]) if method in tunings else "null" for method in methods}
        validation = launch(experiment, "validation", f"{SIZES[size]}_validation", start, grids, str(VALIDATION_SEED))
        (none,) = validation["none"]
        sweeps = {method: try_settings(runs, none) for method, runs in validation.items()}
    chosen = {method: choose(tried) for method, tried in sweeps.items()}
    settings = {method: chosen[method].setting if chosen else None for method in methods}
    test = [run for runs in launch(experiment, "test", SIZES[size], start, settings, seeds).values() for run in runs]
    check_apart([run for runs in validation.values() for run in runs], test)

    comparison = compare_rows(test, by=["method"])
    ours = next((row.name for row in comparison.measured if row.name == "ifguide"), None)
    return {
        "size": size,
        "seeds": seeds.split(","),
        "first": facts_of(next(run for run in test if run.metrics is not None), "tasks.toxicity.samples"),
        "validation_seed": VALIDATION_SEED,
        "tolerance": TOLERANCE,
        "table": markdown(comparison),
        "plots": experiment.report(comparison, title="IF-Guide and its rivals"),
        "rows": rows_of(comparison),
        "against_ifguide": rows_of(compare_rows(test, reference=ours, by=["method"])),
        "truncating": [method for method in tunings if UNSTEERED in tunings[method]["tried"]],
        "sweeps": {method: [asdict(one) for one in tried] for method, tried in sweeps.items()},
        "chosen": {method: asdict(one) for method, one in chosen.items()},
        "figures": figures_of(comparison),
    }


if __name__ == "__main__":
    publish(__file__, measure, size="sample", methods="", seeds="", sweep="true")
