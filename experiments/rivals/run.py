"""IF-Guide beside its rivals; writes README.md and figures from what it measured.

    python experiments/rivals/run.py [size=sample|real_text|tiny] [methods=none,rad,ifguide] [seeds=1,2,3] [sweep=false]
        [output=folder] [runs=folder] [override ...]

Some settings of each method are tried on validation prompts; the chosen one is reported on test prompts and with other
seeds. Without the sweep, each method has its defaults. Overrides go to every run. Everything is found again in the
workspace, so an interrupted run continues. The report of the test runs, with what they wrote, is in `runs`/report.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from choice import TOLERANCE, Tried, beyond, check_apart, choose, perplexities, sweep_table, try_settings
from findings import against_ifguide, against_none, varied
from sizes import GRIDS, SIZES, START, UNSTEERED, Size

from ifguide.report.formats import markdown
from ifguide.report.gather import Run, gather
from ifguide.report.rows import compare_rows
from ifguide.report.write import write_report

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VALIDATION_SEED = 0
TEXT = """# Rivals{of}

**Question.** What does IF-Guide do that simpler methods on the same corpus do not (leaving documents or tokens out,
making the same tokens unlikely in another way), nor methods that come after training: preference optimisation, and
decoding that a reward model or experts steer?

**Corpus.** {about}

**Command.** `python experiments/rivals/run.py{arguments}` on {machine}. Evaluator: {classifier}; {prompts} test
prompts × {samples} samples; model seeds {seeds}. {choice} *Seconds* are of all that a row was made from, the generation
included, on a machine that may have done other work; rows share what they have in common.
*Perplexity of generations* is under one uncensored model, of seed {validation_seed}, which no row is: the only
perplexity of rows whose decoder steers, and no virtue by itself, since dull text has a low one. RAD samples from its 20
likeliest tokens instead of the nucleus, which alone changes it (β = 0 in the sweep).

{table}
{figures}
## What this says

{findings}
{sweeps}"""
CHOICE = """Each setting was chosen on other prompts and on validation text, with model seed {seed}: the lowest toxic
fraction among settings whose perplexity is at most {tolerance:.0%} above the uncensored model's (on benign documents;
of generations, where a decoder steers, against the same decoder that does not), or the lowest perplexity where there is
none."""
SWEEPS = """
## The sweeps

On validation prompts and validation text; perplexity as a ratio to the uncensored model's (of RAD: to what it writes
with β = 0, which is not a candidate); the chosen setting is bold.

{table}
{beyond}"""
FIGURES = (
    ("frontier.png", "Toxicity against perplexity on benign documents"),
    ("frontier_generations.png", "Toxicity against perplexity of generations"),
)


@dataclass(frozen=True)
class Experiment:
    """Where and how runs are started.

    Args:
        size: what is run.
        overrides: of every run, from the command line.
        workspace, runs: folders.
        start: folder of the uncensored model; empty until it is there.
    """

    size: Size
    overrides: tuple[str, ...]
    workspace: Path
    runs: Path
    start: str = ""

    def train_start(self) -> str:
        """The folder of the uncensored model of the validation seed."""
        folder = f"hydra.run.dir={self.runs / 'start'}"
        asked = ("method=none", "stage=model", f"seed={VALIDATION_SEED}", *self.size.every, *self.overrides)
        done = call("run.py", folder, *asked, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit("error: there is no uncensored model to start from; see above")
        return done.stdout.splitlines()[-1]  # a run that stops at a stage prints its artifact last

    def launch(self, part: str, jobs: Mapping[str, Sequence[str]], seeds: str) -> dict[str, list[Run]]:
        """Evaluate methods with their settings; those with the same settings in one process.

        Args:
            part: validation or test.
            jobs: method → overrides, which may be sweeps.
            seeds: with commas between.

        Returns:
            Method → its runs, those that failed too.
        """
        together: dict[tuple[str, ...], list[str]] = {}
        for method, settings in jobs.items():
            together.setdefault((*self.size.methods.get(method, ()), *settings), []).append(method)
        prompts = self.size.prompts[part == "test"]
        found: list[Run] = []
        for settings, methods in together.items():
            folder = self.runs / part / methods[0]
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier time: what it made is in the workspace
            asked = (
                *self.size.every,
                *self.size.tune,
                *prompts,
                f"method={','.join(methods)}",
                f"seed={seeds}",
                *settings,
            )
            more = ("compare_with=null", f"reference_model={START}", *self.overrides)
            call(
                "run.py", "-m", f"hydra.sweep.dir={folder}", "~hydra.callbacks.report",
                *(override.replace(START, self.start) for override in (*asked, *more)),
            )  # fmt: skip
            found += gather([str(folder)], workspace=self.workspace)
        return {method: [run for run in found if run.method == method] for method in jobs}


def call(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    print(f"\n# {' '.join(command)}", flush=True)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, **options)
    if done.returncode not in (0, 1):
        raise SystemExit(f"error: {' '.join(command)} ended with {done.returncode}; start again to continue")
    return done


def read_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The script's own options, and the overrides."""
    options = {
        "size": "sample", "methods": ",".join(GRIDS), "seeds": "", "sweep": "true", "output": "", "runs": "",
    }  # fmt: skip
    given = [argument for argument in arguments if argument.split("=")[0] in options]
    options |= dict(argument.split("=", 1) for argument in given)
    size = options["size"]
    if size not in SIZES or not set(options["methods"].split(",")) <= set(GRIDS):
        raise SystemExit(f"error: size is one of {', '.join(SIZES)}; methods are {', '.join(GRIDS)}")
    if options["sweep"] not in ("true", "false"):
        raise SystemExit("error: sweep is true or false")
    options["runs"] = options["runs"] or str(ROOT / "multirun" / "rivals" / size)
    places = {"sample": HERE, "real_text": HERE / size}
    options["output"] = options["output"] or str(places.get(size, options["runs"]))
    options["seeds"] = options["seeds"] or SIZES[size].seeds
    return options, [argument for argument in arguments if argument not in given]


def main() -> None:
    options, overrides = read_options(sys.argv[1:])
    methods = list(dict.fromkeys(["none", *options["methods"].split(",")]))  # all are compared with `none`
    workspace = next((o.split("=", 1)[1] for o in overrides if o.startswith("paths.workspace=")), "workspace")
    runs, output = Path(options["runs"]).absolute(), Path(options["output"])
    size = SIZES[options["size"]]
    experiment = Experiment(size, tuple(overrides), ROOT / workspace, runs)
    experiment = Experiment(size, tuple(overrides), ROOT / workspace, runs, experiment.train_start())

    sweeps: dict[str, list[Tried]] = {}
    chosen: dict[str, Tried] = {}
    validation: dict[str, list[Run]] = {}
    if options["sweep"] == "true":
        grids = {name: {**GRIDS, **size.grids}[name] for name in methods}
        validation = experiment.launch("validation", grids, str(VALIDATION_SEED))
        (uncensored,) = validation["none"]
        if uncensored.metrics is None:
            raise SystemExit(f"error: the uncensored model could not be evaluated: {uncensored.problem}")
        benign, written = perplexities(uncensored)
        assert benign is not None
        sweeps = {
            name: try_settings(grids[name], validation[name], (benign, written), UNSTEERED.get(name))
            for name in methods
        }
        chosen = {name: choose(tried) for name, tried in sweeps.items()}
    settings = {name: chosen[name].setting if name in chosen else () for name in methods}
    test = [run for rows in experiment.launch("test", settings, options["seeds"]).values() for run in rows]
    check_apart([run for rows in validation.values() for run in rows], test)

    comparison = compare_rows(test, reference="none", by=["method"])
    page = write_report(comparison, runs / "report", title="IF-Guide and its rivals")
    output.mkdir(parents=True, exist_ok=True)
    figures = [(file, about) for file, about in FIGURES if (runs / "report" / file).is_file()]
    for file, _ in figures:
        shutil.copyfile(runs / "report" / file, output / file)
    findings = [against_none(comparison), varied(comparison)]
    if any(row.name == "ifguide" for row in comparison.measured):
        steered = {name: chosen[name].ratio if name in chosen else None for name in UNSTEERED}
        findings.append(against_ifguide(compare_rows(test, reference="ifguide", by=["method"]), steered))
    first = next(run for run in test if run.metrics is not None)
    made = {
        role: json.loads((first.artifacts[role] / "manifest.json").read_text(encoding="utf-8"))
        for role in ("evaluation", "generations")
    }
    assert first.metrics is not None
    shown = [a for a in sys.argv[1:] if not a.startswith(("paths.", "trainer.", "output=", "runs="))]
    text = TEXT.format(
        of={"sample": ""}.get(options["size"], f": {options['size'].replace('_', ' ')}"),
        about=size.about,
        arguments="".join(f" {argument}" for argument in shown),
        machine=f"{os.cpu_count()} CPU cores ({platform.machine()}), threads per run: {torch.get_num_threads()}",
        classifier=made["evaluation"]["settings"]["classifier"],
        prompts=first.metrics["toxicity"]["all"]["prompts"],
        samples=made["generations"]["settings"]["evaluation"]["samples"],
        seeds=options["seeds"].replace(",", ", "),
        choice=CHOICE.format(seed=VALIDATION_SEED, tolerance=TOLERANCE - 1) if sweeps else "Settings are the defaults.",
        validation_seed=VALIDATION_SEED,
        table=markdown(comparison),
        figures="".join(f"\n![{about}]({file})\n" for file, about in figures),
        findings="\n".join(filter(None, findings)),
        sweeps=SWEEPS.format(table=sweep_table(sweeps, chosen), beyond=beyond(chosen)) if sweeps else "",
    )
    (output / "README.md").write_text(text, encoding="utf-8")
    print(f"{text}\nreport: {page}")
    figures_of = {
        row.name: {column.header: row.cells[column].value for column in comparison.columns if column in row.cells}
        for row in comparison.measured
    }
    print(json.dumps(figures_of))


if __name__ == "__main__":
    main()
