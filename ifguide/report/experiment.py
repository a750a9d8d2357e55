"""An experiment: runs of `run.py`, the results that are kept of them, and the page that shows these.

The folder of an experiment holds a script, a template of its page, and what the script leaves: `results.json` and the
page. `render=true` only makes the page, from the results that are there, so that its text can be edited.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ifguide.report.formats import markdown
from ifguide.report.gather import Run, gather
from ifguide.report.rows import Comparison, compare_rows
from ifguide.report.write import write_report
from ifguide.signals import listening, run_through
from ifguide.workspace import as_override, read_json, read_manifest, write_atomically, write_json

COMMON = {"output": "", "runs": "", "render": "false"}
FIGURES = ("frontier.png", "frontier_generations.png", "relearning.png")
NOT_SHOWN = (*COMMON, "paths", "trainer", "hydra")  # they decide where things lie and are computed, not what they are


@dataclass(frozen=True)
class Experiment:
    """What a script was asked for.

    Attributes:
        script: `experiments/<name>/<script>.py` in a checkout.
        arguments: of the command line: options of the script as `name=value`, and overrides of every run.
        defaults: option → default. With an option `size`, all but its default have a folder of their own for results.
        page: the file that shows the results; beside the script lies its template `<page>.j2`.
        stages: name → version of every stage that results came from, as runs are read.
    """

    script: Path
    arguments: Sequence[str] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    page: str = "README.md"
    stages: dict[str, int] = field(default_factory=dict)

    @cached_property
    def options(self) -> dict[str, str]:
        known = {**COMMON, **self.defaults}
        return known | dict(one.split("=", 1) for one in self.arguments if one.split("=")[0] in known)

    @property
    def overrides(self) -> list[str]:
        return [one for one in self.arguments if one.split("=")[0] not in self.options]

    @property
    def root(self) -> Path:
        """The checkout."""
        return self.script.parents[2]

    @property
    def size(self) -> str:
        """Name of the folder of a size that is not the default one; empty otherwise."""
        size = self.options.get("size", "")
        return "" if size == self.defaults.get("size") else size

    @property
    def output(self) -> Path:
        """Where results, page and figures go."""
        return Path(self.options["output"] or self.script.parent / self.size).absolute()

    @property
    def runs(self) -> Path:
        """Where the folders of runs go."""
        return Path(self.options["runs"] or self.root / "multirun" / self.script.parent.name / self.size).absolute()

    @property
    def results_file(self) -> Path:
        return self.output / ("results.json" if self.page == "README.md" else f"{Path(self.page).stem}.json")

    @property
    def command(self) -> str:
        """What measures the same again."""
        shown = [one for one in self.arguments if one.lstrip("+~").split("=")[0].split(".")[0] not in NOT_SHOWN]
        return shlex.join(["python", str(self.script.relative_to(self.root)), *shown])

    def sweep(self, name: str, *overrides: str, report: bool = False) -> list[Run]:
        """Run `run.py -m` with these overrides and those of the experiment, and wait.

        What an earlier time built is found in the workspace, so an interrupted experiment continues.

        Args:
            name: of the runs' folder, which is emptied first.
            overrides: sweeps among them.
            report: write the report of the sweep into that folder.

        Returns:
            The runs in their order, those that failed too.
        """
        shutil.rmtree(self.runs / name, ignore_errors=True)
        silent = () if report else ("~hydra.callbacks.report",)
        command = [
            "run.py",
            "-m",
            *overrides,
            *self.overrides,
            f"hydra.sweep.dir={as_override(self.runs / name)}",
            *silent,
        ]
        print(f"\n# {' '.join(command)}", flush=True)
        code = run_through([sys.executable, *command], os.environ, cwd=self.root)
        if code not in (0, 1) or not (self.runs / name).is_dir():  # 1: some of the runs failed, and say so there
            raise SystemExit(f"error: {' '.join(command)} ended with {code}; start again to continue")
        runs = gather([str(self.runs / name)])
        self.note(path for run in runs for path in run.artifacts.values())
        return runs

    def run(self, name: str, *overrides: str) -> Run:
        """A single run, which must not fail.

        Raises:
            SystemExit: it failed, or the overrides of the experiment make several.
        """
        run, *others = self.sweep(name, *overrides)
        if others:
            raise SystemExit(f"error: {' '.join(self.overrides)}: {1 + len(others)} runs in the place of one, {name}")
        if run.problem is not None and run.problem.startswith("failed"):
            raise SystemExit(f"error: {name} {run.problem}")
        return run

    def report(self, comparison: Comparison, *, title: str) -> list[str]:
        """Write the report of several sweeps beside them.

        Returns:
            Those of its figures that the page shows, as files beside it.
        """
        shutil.rmtree(self.runs / "report", ignore_errors=True)  # figures of an earlier time
        folder = write_report(comparison, self.runs / "report", title=title).parent
        figures = [file for file in FIGURES if (folder / file).is_file()]
        for file in figures:
            shutil.copyfile(folder / file, self.output / file)
        return figures

    def note(self, artifacts: Iterable[Path]) -> None:
        """Keep the versions of the stages of these artifacts."""
        manifests = map(read_manifest, artifacts)
        self.stages.update({manifest["stage"]: manifest["version"] for manifest in manifests})

    def results(self, measure: Callable[[Experiment], Mapping[str, Any]]) -> dict[str, Any]:
        """What was measured, now or, with `render=true`, an earlier time; kept as JSON."""
        if self.options["render"] not in ("true", "false"):
            raise SystemExit(f"error: render={self.options['render']}: it is true or false")
        if self.options["render"] == "false":
            self.output.mkdir(parents=True, exist_ok=True)
            with listening():
                measured = measure(self)
            about = {"command": self.command, "machine": machine(), "stages": dict(sorted(self.stages.items()))}
            write_json(self.results_file, {**about, **measured})
        if not self.results_file.is_file():
            raise SystemExit(f"error: render=true: there is no {self.results_file}; measure first")
        kept: dict[str, Any] = read_json(self.results_file)
        return kept

    def render(self, results: Mapping[str, Any]) -> str:
        """Write the page of some results, from its template."""
        folders = [self.script.parent, self.script.parents[1]]
        templates = Environment(
            loader=FileSystemLoader(folders), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
            keep_trailing_newline=True,
        )  # fmt: skip
        text = templates.get_template(f"{self.page}.j2").render(results)
        write_atomically(self.output / self.page, text.encode("utf-8"))
        return text


def publish(
    script: str, measure: Callable[[Experiment], Mapping[str, Any]], *, page: str = "README.md", **defaults: str
) -> None:
    """What a script does: measure, keep the results, write the page; the last line printed is `results["figures"]`.

    Args:
        script: `__file__`.
        measure: the experiment → results as JSON values, `figures` among them.
        page: see `Experiment`.
        defaults: the script's options.
    """
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may not know an arrow
    experiment = Experiment(Path(script).absolute(), sys.argv[1:], defaults, page)
    results = experiment.results(measure)
    print(experiment.render(results))
    print(json.dumps(results["figures"]))


def machine() -> str:
    """Where this was measured: a run has as many threads as this process."""
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), threads per run: {torch.get_num_threads()}"


def facts_of(run: Run, *settings: str) -> dict[str, Any]:
    """What a page may say of a run: its metrics, some of its settings, and the facts and seconds of its artifacts.

    Raises:
        SystemExit: it was not evaluated.
    """
    if run.metrics is None:
        raise SystemExit(f"error: {run.place}: {run.problem}")
    manifests = {role: read_manifest(path) for role, path in run.artifacts.items()}
    return {
        "metrics": run.metrics,
        "settings": {key: run.setting(key) for key in settings},
        "made": {role: {key: manifest[key] for key in ("facts", "seconds")} for role, manifest in manifests.items()},
    }


def compare_named(runs: Sequence[Run], names: Sequence[str]) -> Comparison:
    """Rows by a name for each run, in place of its method's."""
    named = [replace(run, choices={**run.choices, "method": name}) for run, name in zip(runs, names, strict=True)]
    return compare_rows(named, by=["method"])


def page_of(comparison: Comparison) -> dict[str, Any]:
    """What a page needs of a comparison: its `table`, its `rows` (`rows_of`), and `figures`, printed last."""
    return {"table": markdown(comparison), "rows": rows_of(comparison), "figures": figures_of(comparison)}


def figures_of(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Row → column → value of a comparison's table."""
    return {
        row.name: {column.header: row.cells[column].value for column in comparison.columns if column in row.cells}
        for row in comparison.measured
    }


def rows_of(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Row → all its values, by `task.subset.metric`, and its difference from the reference in the headline."""
    found = {}
    for row in comparison.measured:
        difference = row.differences.get(comparison.headline)
        found[row.name] = {
            "values": {f"{one.task}.{one.subset}.{one.metric}": cell.value for one, cell in row.cells.items()},
            "difference": difference and {"value": difference.value, "interval": difference.interval},
        }
    return found
