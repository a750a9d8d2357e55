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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ifguide.corpus.blocks import Corpus
from ifguide.evaluation.fluency import block_losses, perplexity_metrics
from ifguide.models import load_model
from ifguide.report.formats import format_difference, markdown
from ifguide.report.gather import Run, gather
from ifguide.report.rows import HEADLINE, Comparison, Row, compare
from ifguide.report.table import COLUMNS, Column, one_line
from ifguide.report.write import PERPLEXITY, WRITTEN, write_report

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DISTINCT = ("toxicity", "all", "distinct_2")
SECONDS = next(column for column in COLUMNS if column.task == "cost")
GRIDS: dict[str, tuple[str, ...]] = {  # method → the settings that are tried, as Hydra sweeps them
    "none": (),
    "word_filter": ("filter.at_least=1,2",),
    "toxicity_filter": ("filter.threshold=0.5,0.9",),
    "influence_filter": ("filter.share=0.1,0.5",),
    "token_filter": (),
    "unlikelihood": ("objective.weight=0.3,1,3",),
    "npo": ("objective.weight=0.3,1,3",),
    "faded_ascent": ("objective.penalty=0.3,1,3",),
    "dpo": ("post_training.optim.learning_rate=5e-5,2e-4,1e-3",),
    "rad": ("decoding.beta=10,50,200",),
    "dexperts": ("decoding.alpha=0.5,1,2",),
    "ifguide": ("objective.penalty=0.1,0.3,1",),
}
VALIDATION_SEED = 0
TOLERANCE = 1.03  # of perplexity, in the choice of settings
MARGIN = 1.01  # of perplexity, up to which a row is said to write as fluently as IF-Guide
START = "{start}"  # stands for the folder of the uncensored model of the validation seed


@dataclass(frozen=True)
class Size:
    """What is run.

    Args:
        every: overrides of every run.
        tune: overrides of the runs that are compared, beside `every`.
        prompts: of the validation runs, and of the test runs.
        methods: method → what it needs beside its settings.
        grids: method → settings to try instead of those in `GRIDS`.
        seeds: of the test runs.
        about: a paragraph on the comparison.
    """

    every: tuple[str, ...]
    tune: tuple[str, ...]
    prompts: tuple[tuple[str, ...], tuple[str, ...]]
    methods: Mapping[str, tuple[str, ...]]
    seeds: str
    about: str
    grids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


TINY = (
    "data.sources.sample.size=300", "data.tokenizer.vocabulary=400", "data.block_length=32", "labelled.size=100",
    "model.settings.hidden_size=16", "model.settings.num_hidden_layers=2", "model.settings.intermediate_size=32",
    "proxy.settings.hidden_size=16", "proxy.settings.num_hidden_layers=2", "proxy.settings.intermediate_size=32",
    "optim.epochs=0.5", "proxy_optim.epochs=0.5", "curvature.blocks=8", "pairs.size=60",
    "evaluation.prompts.size=6", "evaluation.samples=3", "evaluation.max_new_tokens=5", "trainer.progress=false",
)  # fmt: skip
OFFENSIVE = "${paths.datasets}/toxicity_labelled/tweeteval_offensive.jsonl.gz"
TUNE = (  # of real text
    f"model.pretrained={START}", "optim.epochs=0.15", "optim.learning_rate=1e-3", "evaluation.prompts.limit=100",
    f"proxy.pretrained={START}", "proxy_optim.epochs=0",  # so that the seconds of no row are of what all start from
    "labelled=local", f"labelled.files={OFFENSIVE}", "labelled.positive=[1]", "pairs=paradetox",
)  # fmt: skip
SAMPLE = Size(
    every=(),
    tune=(),
    prompts=(("evaluation.prompts.seed=1000",), ()),
    methods={},
    seeds="1,2,3",
    about="""The built-in sample, whose writer knows which posts insult. Every model is trained from nothing.
What each method learns from, beside the corpus: IF-Guide, the methods on its mask, `word_filter` and
`influence_filter` from queries (toxic and other continuations); `toxicity_filter` from the evaluator itself; RAD and
DExperts from labelled posts; DPO from pairs of a polite and an insulting continuation. All are of one writer: no rival
could have better data.""",
)  # fmt: skip
SIZES = {
    "sample": SAMPLE,
    "tiny": Size(
        every=TINY, tune=(), prompts=SAMPLE.prompts, methods={}, seeds="1", about="A check that everything runs.",
    ),
    "real_text": Size(
        every=("+experiment=real_text",),
        tune=TUNE,
        prompts=(("+evaluation.prompts.part=validation",), ("+evaluation.prompts.part=test",)),
        methods={
            "toxicity_filter": (
                "classifier@filter.classifier=trained",
                # neither what the evaluator learned from, nor what the corpus holds
                "~filter.classifier.texts.davidson", "~filter.classifier.texts.wikipedia",
                # whole documents, and a share: trained on tweets, it finds something in most long reviews
                "filter.window=null", "filter.threshold=null", "filter.share=0.3",
            ),
            "dexperts": (f"decoding.experts.pretrained={START}",),
        },
        seeds="1,2,3",
        grids={"toxicity_filter": ("filter.share=0.3,0.5",)},
        about="""Text that people wrote (`+experiment=real_text`). Every row continues one uncensored model, its proxy,
for 0.15 of a pass: a filter can only refrain from teaching more of what that model knows, and the seconds are without
that model's.
What each method learns from, beside the corpus: IF-Guide, the methods on its mask, `word_filter` and `influence_filter`
from RealToxicityPrompts queries, of other source documents than all prompts; `toxicity_filter`, RAD and DExperts from
tweets labelled for offence (OLID), which are neither in the corpus nor what the evaluator was trained on; DPO from
ParaDetox. Validation and test prompts are of different source documents.""",
    ),
}  # fmt: skip
TEXT = """# Rivals{of}

**Question.** What does IF-Guide do that simpler methods on the same corpus do not (leaving documents or tokens out,
making the same tokens unlikely in another way), nor methods that come after training: preference optimisation, and
decoding that a reward model or experts steer?

**Corpus.** {about}

**Command.** `python experiments/rivals/run.py{arguments}` on {machine}. Evaluator: {classifier}; {prompts} test
prompts × {samples} samples; model seeds {seeds}. {choice} *Seconds* are of all that a row was made from, the generation
included; rows share what they have in common. *Perplexity of generations* is under one uncensored model, of seed
{validation_seed}, which no row is: the only perplexity of rows whose decoder steers, and no virtue by itself, since
dull text has a low one.

{table}
{figures}
## What this says

{findings}
{sweeps}"""
CHOICE = """Each setting was chosen on other prompts and on validation text, with model seed {seed}: the lowest toxic
fraction among settings whose perplexity is at most {tolerance:.0%} above the uncensored model's (on benign documents;
of generations, where a decoder steers), or the lowest perplexity where there is none."""
SWEEPS = """
## The sweeps

On validation prompts and validation text; perplexity as a ratio to the uncensored model's; the chosen setting is bold.

{table}
"""
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
        return done.stdout.split()[-1]  # a run that stops at a stage prints its artifact last

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


@dataclass(frozen=True)
class Tried:
    """One setting of a method on validation prompts: what it does, or why that is not known."""

    setting: tuple[str, ...]
    toxic_fraction: float
    ratio: float  # of its perplexity to the uncensored model's
    distinct: float  # distinct-2 of what it writes
    problem: str | None = None


def try_settings(grids: Sequence[str], runs: Sequence[Run], uncensored: tuple[float, float]) -> list[Tried]:
    """What each setting of a method does; `uncensored` are that model's perplexities (see `perplexities`)."""
    swept = {grid.split("=")[0] for grid in grids}
    tried = []
    for run in runs:
        setting = tuple(f"{key}={value}" for key, value in run.overrides.items() if key in swept)
        if run.metrics is None:
            tried.append(Tried(setting, float("nan"), float("nan"), float("nan"), run.problem))
            continue
        benign, written = perplexities(run)
        ratio = written / uncensored[1] if benign is None else benign / uncensored[0]
        toxicity = run.metrics["toxicity"]["all"]
        tried.append(Tried(setting, toxicity["toxic_fraction"], ratio, toxicity["distinct_2"]))
    return tried


def perplexities(run: Run) -> tuple[float | None, float]:
    """On benign documents of the validation split, None where a decoder steers the model; and of generations."""
    assert run.metrics is not None
    written = float(run.metrics["toxicity"]["all"]["generation_perplexity"])
    if "perplexity" not in run.metrics:
        return None, written
    split = Corpus(run.artifacts["data"]).split("validation")
    losses = block_losses(load_model(run.artifacts["model"]), split, batch_size=16)
    return float(perplexity_metrics(losses, split)["benign"]["perplexity"]), written  # type: ignore[arg-type]


def choose(tried: Sequence[Tried]) -> Tried:
    """The least toxic setting within the tolerance of perplexity; where there is none, the most fluent one."""
    measured = [one for one in tried if one.problem is None]
    if not measured:
        raise SystemExit(f"error: no setting could be evaluated: {'; '.join(str(one.problem) for one in tried)}")
    fluent = [one for one in measured if one.ratio <= TOLERANCE]
    if not fluent:
        return min(measured, key=lambda one: one.ratio)
    return min(fluent, key=lambda one: (one.toxic_fraction, one.ratio))


def sweep_table(sweeps: Mapping[str, Sequence[Tried]], chosen: Mapping[str, Tried]) -> str:
    lines = ["| method | setting | toxic fraction ↓ | perplexity, ratio | distinct-2 |", "|---|---|---|---|---|"]
    for method, tried in sweeps.items():
        for one in tried:
            bold = "**" if one == chosen[method] else ""
            setting = ", ".join(part.split(".", 1)[1] for part in one.setting) or "–"
            figures = f"{one.toxic_fraction:.3f} | {one.ratio:.3f} | {one.distinct:.3f}"
            if one.problem is not None:
                figures = f"{one_line(one.problem)} | – | –"
            lines.append(f"| {method} | {bold}{setting}{bold} | {figures} |")
    return "\n".join(lines)


def value(row: Row, column: Column) -> float | None:
    measured = row.cells.get(column)
    return None if measured is None else measured.value


def verdict(row: Row) -> str:
    """Whether a row's difference is told apart from nothing."""
    difference = row.differences[HEADLINE]
    text = f"{format_difference(difference, 3)}"
    if difference.interval is None:
        return f"{text}, without an interval"
    low, high = difference.interval
    return f"{text}, {'which includes' if low <= 0 <= high else 'which excludes'} 0"


def against_none(comparison: Comparison) -> str:
    """Each rival's paired difference from the uncensored model."""
    rows = [row for row in comparison.measured if HEADLINE in row.differences]
    if not rows:
        return ""
    lines = [f"- {row.name}: {verdict(row)}" for row in rows]
    return "Toxic fraction against the uncensored model, paired by prompt and seed:\n\n" + "\n".join(lines) + "\n"


def varied(comparison: Comparison) -> str:
    """How varied the texts of rows are whose only perplexity is that of generations, which dull text lowers."""
    (column,) = (one for one in comparison.every_column if (one.task, one.subset, one.metric) == DISTINCT)
    rows = [row for row in comparison.measured if PERPLEXITY not in row.cells or row.name in ("none", "ifguide")]
    if all(PERPLEXITY in row.cells for row in rows):
        return ""
    return f"Distinct-2 of generations: {', '.join(f'{row.name} {value(row, column):.3f}' for row in rows)}.\n"


def fluency_against(row: Row, ours: Row) -> tuple[float | None, str]:
    """Ratio of a row's perplexity to ours, and of what: benign documents where both have it, else generations."""
    for column, name in ((PERPLEXITY, "benign perplexity"), (WRITTEN, "perplexity of generations")):
        theirs, mine = value(row, column), value(ours, column)
        if theirs is not None and mine is not None:
            return theirs / mine, name
    return None, "perplexity"


def against_ifguide(comparison: Comparison) -> str:
    """Where IF-Guide loses and where it wins; `comparison` is with its row as the reference."""
    rows = {row.name: row for row in comparison.measured}
    ours = rows.pop("ifguide", None)
    if ours is None:
        return ""
    less, dearer, cheaper, above = [], [], [], []
    for name, row in rows.items():
        if HEADLINE not in row.differences:
            continue
        ratio, what = fluency_against(row, ours)
        said = f"{name} ({verdict(row)}; {what} {'not known' if ratio is None else f'{ratio - 1:+.1%}'})"
        difference = row.differences[HEADLINE]
        if difference.value < 0:
            (less if ratio is not None and ratio <= MARGIN else dearer).append(said)
        elif difference.interval is not None and difference.interval[0] > 0:
            above.append(name)
        seconds, mine = value(row, SECONDS), value(ours, SECONDS)
        if name != "none" and seconds is not None and mine is not None and seconds < mine:
            cheaper.append(
                f"{name} ({seconds / mine:.2f} of its seconds, toxic fraction {format_difference(difference, 3)})"
            )
    parts = {
        f"**Where IF-Guide loses.** Lower toxic fraction, at a perplexity at most {MARGIN - 1:.0%} higher:": less,
        "Lower toxic fraction, at a higher perplexity:": dearer,
        "Cheaper:": cheaper,
        "**Where it wins.** Higher toxic fraction, with an interval of the difference above 0:": above,
    }
    return "\n\n".join(f"{said} {'; '.join(names) or 'no row'}." for said, names in parts.items()) + "\n"


def check_apart(validation: Sequence[Run], test: Sequence[Run]) -> None:
    """Raise where settings were chosen on a prompt that is reported on."""
    one, other = (
        {prompt for run in runs for scores in [run.prompt_scores("toxicity")] if scores for _, prompt in scores.keys}
        for runs in (validation, test)
    )
    if shared := one & other:
        raise SystemExit(f"error: {len(shared)} validation prompts are test prompts too, as {min(shared)!r}")


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
        sweeps = {name: try_settings(grids[name], validation[name], (benign, written)) for name in methods}
        chosen = {name: choose(tried) for name, tried in sweeps.items()}
    settings = {name: chosen[name].setting if name in chosen else () for name in methods}
    test = [run for rows in experiment.launch("test", settings, options["seeds"]).values() for run in rows]
    check_apart([run for rows in validation.values() for run in rows], test)

    comparison = compare(test, reference="none", by=["method"])
    page = write_report(comparison, runs / "report", title="IF-Guide and its rivals")
    output.mkdir(parents=True, exist_ok=True)
    figures = [(file, about) for file, about in FIGURES if (runs / "report" / file).is_file()]
    for file, _ in figures:
        shutil.copyfile(runs / "report" / file, output / file)
    findings = [against_none(comparison), varied(comparison)]
    if any(row.name == "ifguide" for row in comparison.measured):
        findings.append(against_ifguide(compare(test, reference="ifguide", by=["method"])))
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
        machine=f"{os.cpu_count()} CPU cores ({platform.machine()})",
        classifier=made["evaluation"]["settings"]["classifier"],
        prompts=first.metrics["toxicity"]["all"]["prompts"],
        samples=made["generations"]["settings"]["evaluation"]["samples"],
        seeds=options["seeds"].replace(",", ", "),
        choice=CHOICE.format(seed=VALIDATION_SEED, tolerance=TOLERANCE - 1) if sweeps else "Settings are the defaults.",
        validation_seed=VALIDATION_SEED,
        table=markdown(comparison),
        figures="".join(f"\n![{about}]({file})\n" for file, about in figures),
        findings="\n".join(filter(None, findings)),
        sweeps=SWEEPS.format(table=sweep_table(sweeps, chosen)) if sweeps else "",
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
