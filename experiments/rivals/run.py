"""IF-Guide beside its rivals.

    python experiments/rivals/run.py [size=sample|real_text] [methods=none,rad] [seeds=1,2,3] [repeated=rad]
        [sweep=false] [render=true] [output=folder] [runs=folder] [override ...]

Settings of each method (`conf/tuning`) are tried on validation prompts, by `+experiment=rivals_validation`: three, and
further ones while the chosen one is at the edge, six at most. It is reported on test prompts and with other seeds, by
`+experiment=rivals`, and learns toxic text again there (`relearning`); where `repeated` names methods, the others
have the first seed. Without the sweep, each method has the setting that its file names. `runs`/report: what they wrote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ifguide.report.choice import TOLERANCE, TRIES, UNSTEERED, Tried, beyond, check_apart, choose, try_settings
from ifguide.report.experiment import Experiment, facts_of, page_of, publish, rows_of
from ifguide.report.gather import Run
from ifguide.report.rows import compare_rows
from ifguide.workspace import as_override

SIZES = {"sample": "rivals", "real_text": "rivals_real_text"}
VALIDATION_SEED, REFERENCE_SEED = 0, 1000  # the reference model is continued by no row


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def launch(
    experiment: Experiment, part: str, common: Sequence[str], settings: Mapping[str, Sequence[str]]
) -> dict[str, list[Run]]:
    """Method → its runs, those that failed too; methods with the same overrides (`settings`) run in one process."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for method, overrides in settings.items():
        shared.setdefault(tuple(overrides), []).append(method)
    found = [run for given, of in shared.items()
             for run in experiment.sweep(f"{part}/{of[0]}", *common, f"method={','.join(of)}", *given)]  # fmt: skip
    return {method: [run for run in found if run.method == method] for method in settings}


def search(
    experiment: Experiment, common: Sequence[str], tunings: Mapping[str, Any], methods: Sequence[str]
) -> tuple[dict[str, list[Run]], dict[str, list[Tried]], dict[str, list[str]]]:
    """Method → its runs on validation prompts, what they did, and the overrides of the setting that is chosen."""
    names = {method: list(tunings[method]["tried"]) if method in tunings else [] for method in methods}
    overrides = {method: {name: [f"tuning.setting={name}"] for name in names[method]} for method in methods}
    first = {method: [f"tuning.setting={','.join(names[method]) or 'null'}"] for method in methods}
    runs = launch(experiment, "validation", common, first)
    (none,) = runs["none"]
    facts_of(none)  # what all are compared with
    tried = {method: try_settings(found, none) for method, found in runs.items()}

    def more(method: str, name: str, chosen: list[str]) -> None:
        overrides[method][name] = chosen
        runs[method] += launch(experiment, f"validation/{name}", common, {method: chosen})[method]
        tried[method] = try_settings(runs[method], none)

    for method, tuning in ((method, tunings[method]) for method in methods if method in tunings):
        bounds = {bound: tuning.get(bound) for bound in ("least", "most")}
        while (value := beyond(tried[method], **bounds)) is not None and len(names[method]) < TRIES:
            names[method].append(name := f"further_{len(names[method])}")
            more(method, name, [f"+tuning.tried.{name}={value}", f"tuning.setting={name}"])
        if (best := choose(tried[method])) is None:
            continue  # no setting could be evaluated, as the page says
        for also, settings in list(tuning.get("also", {}).items())[: TRIES - len(tried[method])]:
            shown = f"+tuning.shown={as_override(f'{best.shown}, {also}')}"
            more(method, also, [f"+tuning.tried.{also}={best.value}", f"tuning.setting={also}", shown, *settings])
    chosen = {method: best.setting for method, found in tried.items() if (best := choose(found))}
    return runs, tried, {method: overrides[method][name] if name else [] for method, name in chosen.items()}


def measure(experiment: Experiment) -> dict[str, Any]:
    size, conf = experiment.options["size"], experiment.root / "conf"
    every = read(conf / "experiment" / "rivals_base.yaml")["hydra"]["sweeper"]["params"]
    asked = (experiment.options["methods"] or every["method"]).split(",")
    methods, seeds = list(dict.fromkeys(["none", *asked])), experiment.options["seeds"] or every["seed"]
    repeated = [name for name in experiment.options["repeated"].split(",") if name]
    if size not in SIZES or experiment.options["sweep"] not in ("true", "false") or not {*repeated} <= {*methods}:
        raise SystemExit(f"error: size is one of {', '.join(SIZES)}; sweep is true or false; repeated are of methods")
    files = {method: conf / "tuning" / size / f"{method}.yaml" for method in methods}
    tunings = {method: read(file)["tuning"] for method, file in files.items() if file.is_file()}
    corpus = ("+experiment=real_text",) if size == "real_text" else ()
    starts = [f"{name}={experiment.run(name, *corpus, 'method=none', 'stage=model', f'seed={seed}').typed('model')}"
              for name, seed in (("start", VALIDATION_SEED), ("reference", REFERENCE_SEED))]  # fmt: skip

    validation, sweeps, settings = {}, {}, {method: list[str]() for method in methods}
    if experiment.options["sweep"] == "true":
        shared = [f"+experiment={SIZES[size]}_validation", *starts, f"seed={VALIDATION_SEED}"]
        validation, sweeps, settings = search(experiment, shared, tunings, methods)
    chosen = {method: best for method, tried in sweeps.items() if (best := choose(tried))}
    common = [f"+experiment={SIZES[size]}", *starts, "+utility@utilities.relearning=relearning"]
    often, once = {"none", *(repeated or methods)}, seeds.split(",")[0]
    seeded = {name: [*given, f"seed={seeds if name in often else once}"] for name, given in settings.items()}
    test = [run for runs in launch(experiment, "test", common, seeded).values() for run in runs]
    check_apart([run for runs in validation.values() for run in runs], test)

    comparison = compare_rows(test, by=["method"])
    ours = next((row.name for row in comparison.measured if row.name == "ifguide"), None)
    return {
        "size": size, "seeds": seeds.split(","), "repeated": repeated, "tolerance": TOLERANCE,
        "first": facts_of(next(run for run in test if run.metrics is not None), "tasks.toxicity.samples"),
        "plots": experiment.report(comparison, title="IF-Guide and its rivals"), **page_of(comparison),
        "against_ifguide": rows_of(compare_rows(test, reference=ours, by=["method"])),
        "validation_seed": VALIDATION_SEED,
        "sources": {group: test[0].choices[group] for group in ("labelled", "pairs")},
        "truncating": [method for method in tunings if UNSTEERED in tunings[method]["tried"]],
        "sweeps": {method: [asdict(one) for one in tried] for method, tried in sweeps.items()},
        "chosen": {method: asdict(one) for method, one in chosen.items()},
    }  # fmt: skip


if __name__ == "__main__":
    publish(__file__, measure, size="sample", methods="", seeds="", repeated="", sweep="true")
