"""What a run leaves in its directory: metrics, `run.json`, the report of its row, and token pages."""

from pathlib import Path

from ifguide.evaluation.task import judgements
from ifguide.influence.store import open_scores
from ifguide.pipeline import Pipeline
from ifguide.report.formats import markdown
from ifguide.report.gather import read_run
from ifguide.report.rows import compare_rows
from ifguide.report.token_page import write_token_pages
from ifguide.report.write import write_report
from ifguide.workspace import write_json


def write_results(
    pipeline: Pipeline, reference: Pipeline | None, directory: Path, *, name: str, reference_name: str | None
) -> None:
    write_run(pipeline, directory, name)
    if pipeline.objective.uses_mask and pipeline.cfg.paths.mask is None:
        pages = write_token_pages(
            pipeline.corpus, list(pipeline.queries), open_scores(pipeline.pooled().path), pipeline.train_mask(),
            pipeline.mask().manifest["facts"], directory,
        )  # fmt: skip
        for page in pages:
            print(f"{'token page:':24} {page}")
    comparison = compare_rows([read_run(directory)], reference=None)
    page = write_report(comparison, directory, title=f"IF-Guide: {name}")
    print(f"\n{markdown(comparison)}")
    print(f"model {name + ':':18} {pipeline.model().path}")
    print(f"{'metrics:':24} {directory / 'metrics.json'}")
    print(f"{'report:':24} {page}")


def write_run(pipeline: Pipeline, directory: Path, name: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    first = next(iter(pipeline.tasks))
    roles = {
        role: f"generations.{first}" if role == "generations" else role.replace("generations of ", "generations.")
        for role in pipeline.artifacts
    }
    judged = judgements(pipeline.tasks, pipeline.cfg.classifiers)
    facts = {
        "name": name,
        "stage": pipeline.cfg.stage,
        "seed": pipeline.cfg.seed,
        "notes": list(pipeline.notes),
        "artifacts": {roles[role]: str(path.absolute()) for role, path in pipeline.artifacts.items()},
        "generations": {task: f"generations.{task}" for task in pipeline.tasks},
        "judged": {key: {"task": task, "classifier": judge} for key, (task, judge) in judged.items()},
        "behaviours": list(pipeline.queries),
    }
    write_json(directory / "metrics.json", pipeline.metrics())
    write_json(directory / "run.json", facts)
