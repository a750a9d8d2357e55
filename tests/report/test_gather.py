import shutil

import numpy as np
import pytest
import yaml
from run_folders import beta, write_facts, write_run, write_sweep

from ifguide.report.formats import markdown
from ifguide.report.gather import Run, gather, load_prompt_scores, plain
from ifguide.report.groups import group_runs
from ifguide.report.rows import compare_rows

ZEROS = np.zeros((4, 2))


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path, seeds=(1, 2), methods=(("none", 0.9, 12.0), ("ifguide", 0.3, 12.5)))


def run(method="ifguide", seed=1, value=0.5, problem=None, **settings) -> Run:
    config = {"seed": seed, "objective": {"penalty": settings.get("objective.penalty", 1)}}
    metrics = None if problem else {"toxicity": {"all": {"toxic_fraction": value}}}
    overrides = {"seed": str(seed), **{key: str(setting) for key, setting in settings.items()}}
    return Run(f"/x/{method}", overrides, {"method": method}, config, metrics, problem)


def names(runs, by=None):
    return {group.name: [run.seed for run in group.runs] for group in group_runs(runs, by)}


def test_every_job_of_a_sweep_is_there_in_the_order_of_its_number(sweep):
    runs = gather([str(sweep)])
    assert [(run.method, run.seed) for run in runs] == [
        ("none", 1), ("none", 2), ("ifguide", 1), ("ifguide", 2), ("dpo", 4), ("rad", 1)
    ]  # fmt: skip
    assert [run.problem for run in runs[:4]] == [None] * 4
    assert runs[4].problem == "failed: the training loss is nan at step 40. Use a smaller optim.learning_rate"
    assert runs[5].problem == "unfinished"


def test_job_ten_comes_after_job_nine(tmp_path):
    for job in range(11):
        write_run(tmp_path / "sweep" / str(job), "none", job, ZEROS, workspace=tmp_path / "workspace")
    assert [run.seed for run in gather([str(tmp_path / "sweep")])] == list(range(11))


def test_a_run_a_list_a_glob_and_a_folder_above(sweep):
    assert len(gather([str(sweep / "0")])) == 1
    assert len(gather([str(sweep / "0"), str(sweep / "[12]")])) == 3
    assert len(gather([str(sweep.parent)])) == 6
    sweep.rename(sweep.parent / "sweep [1]")
    assert len(gather([f"{sweep} [1]/[12]"])) == 2, "a glob within a folder whose name has signs"


def test_a_run_without_hydras_folder_is_a_run(sweep):
    shutil.rmtree(sweep / "0" / ".hydra")
    (run,) = gather([str(sweep / "0")])
    assert run.problem is None and run.metrics is not None and run.method == "none"


@pytest.mark.parametrize("place, why", [("nowhere", "no such folder"), ("*.none", "no such"), ("workspace", "no run")])
def test_a_place_without_runs_is_named(sweep, place, why):
    with pytest.raises(ValueError, match=f"report.runs=.*{why}"):
        gather([str(sweep / "0"), str(sweep.parent / place)])


def test_a_folder_inside_a_run_is_none(tmp_path):
    folder = write_run(tmp_path / "sweep" / "0", "ifguide", 1, ZEROS, workspace=tmp_path / "workspace")
    write_run(folder / "older", "none", 1, ZEROS, workspace=tmp_path / "workspace")
    assert [run.method for run in gather([str(tmp_path / "sweep")])] == ["ifguide"]


def test_values_by_prompt_come_from_the_artifacts_until_they_are_gone(tmp_path):
    values = beta(np.random.default_rng(0), 0.5)
    folder = write_run(tmp_path / "r", "none", 1, values, workspace=tmp_path / "workspace")
    scores = gather([str(folder)])[0].prompt_scores("toxicity")
    assert (scores.probabilities["toxicity"] == values).all() and len(scores.continuations) == len(values)
    (tmp_path / "workspace").rename(tmp_path / "moved")
    assert gather([str(folder)])[0].prompt_scores("toxicity") is None
    assert gather([str(folder)], workspace=tmp_path / "moved")[0].prompt_scores("toxicity") is not None


def test_artifacts_are_where_the_run_left_them_or_in_its_own_workspace(tmp_path):
    values = beta(np.random.default_rng(0), 0.5)
    folder = write_run(
        tmp_path / "r", "none", 1, values, workspace=tmp_path / "workspace", config={"paths": {"workspace": "kept"}}
    )
    assert gather([str(folder)])[0].prompt_scores("toxicity") is not None
    (tmp_path / "workspace").rename(folder / "kept")  # relative to where the run was started
    (found,) = gather([str(folder)])
    assert found.prompt_scores("toxicity") is not None
    assert {place.parent for place in found.artifacts.values()} == {folder / "kept"}


def test_every_name_finds_the_generations_of_its_task(tmp_path, monkeypatch):
    """`a_b_c` is the task `a` judged by `b_c`, though there is a task `a_b`: `run.json` says so."""
    monkeypatch.setattr("ifguide.report.gather.load_prompt_scores", lambda evaluation, generations, name: generations)
    folder = write_run(tmp_path / "r", "none", 1, ZEROS, workspace=tmp_path / "workspace")
    artifacts = {"evaluation": tmp_path, "generations.a": tmp_path / "a", "generations.a_b": tmp_path / "b"}
    for place in artifacts.values():
        place.mkdir(exist_ok=True)
    judged = {"a": "a", "a_b": "a_b", "a_b_c": "a", "a_b_b_c": "a_b", "gone": "c"}
    write_facts(
        folder, artifacts=artifacts, generations={"a": "generations.a", "a_b": "generations.a_b", "c": "generations.c"},
        judged={name: {"task": task, "classifier": "x"} for name, task in judged.items()},
    )  # fmt: skip
    (run,) = gather([str(folder)])
    found = {name: run.prompt_scores(name) for name in (*judged, "lambada")}
    assert [place and place.name for place in found.values()] == ["a", "b", "a", "b", None, None]


DAMAGES = {
    "metrics.json": ["{", "[]", '{"toxicity": 3}', '{"toxicity": {"all": {"x_interval": [1]}}}', b"\xff\xfe"],
    "run.json": ["", "[]", '{"artifacts": []}', '{"judged": {"toxicity": "x"}}', '{"notes": 3}'],
    ".hydra/config.yaml": ["a: [", "- 1", b"\xff"],
    ".hydra/hydra.yaml": ["x", "hydra: 1", "{}"],
    ".hydra/overrides.yaml": ["- {a: 1}", "{", "3"],
    "failure.json": ["{", '{"error": "x"}'],
}


@pytest.mark.parametrize("name, content", [(name, content) for name, all in DAMAGES.items() for content in all])
def test_a_damaged_file_is_a_problem_of_its_run(sweep, name, content):
    (sweep / "0" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    comparison = compare_rows(gather([str(sweep)]))
    (row,) = [row for row in comparison.failed if row.runs[0].place == str(sweep / "0")]
    assert row.problem.startswith(f"failed: a damaged file in its folder: {name} (")
    assert len(comparison.rows) == 5 and "damaged" in markdown(comparison)


@pytest.mark.parametrize("kind, file", [
    ("evaluation", "probabilities-toxicity.npz"), ("generations", "generations.arrow"), ("perplexity", "losses.npz"),
])  # fmt: skip
def test_a_damaged_artifact_costs_its_row_the_values_by_unit_alone(tmp_path, kind, file):
    for job, method in enumerate(["none", "ifguide"]):
        values = np.random.default_rng(job).random((20, 4))
        place = {"workspace": tmp_path / "w", "documents": 200, "perplexity": 12.0 + job}
        write_run(tmp_path / "s" / str(job), method, 1, values, **place)
    before = compare_rows(gather([str(tmp_path / "s")])).measured[1]
    (place,) = (tmp_path / "w").glob(f"{kind}-*-ifguide")
    assert (place / file).is_file()
    (place / file).write_bytes(b"PK")
    load_prompt_scores.cache_clear()  # of the whole file
    none, ifguide = compare_rows(gather([str(tmp_path / "s")])).measured
    (note,) = [note for note in ifguide.notes if note.startswith("damaged: ")]
    assert str(place / file) in note and not any("damaged" in note for note in none.notes)
    assert {one: cell.value for one, cell in ifguide.cells.items()} == pytest.approx(
        {one: cell.value for one, cell in before.cells.items()}
    )
    task = "perplexity" if kind == "perplexity" else "toxicity"
    lost = [one for one, difference in before.differences.items() if difference.interval and one.task == task]
    assert lost and not any(ifguide.differences[one].interval for one in lost)
    assert all(ifguide.differences[one] == before.differences[one] for one in before.differences if one.task != task)


def test_a_run_without_its_choices_has_the_name_it_gave_itself(sweep):
    (sweep / "2" / ".hydra" / "hydra.yaml").write_text("{")
    (sweep / "2" / ".hydra" / "config.yaml").write_text("{")
    (sweep / "2" / ".hydra" / "overrides.yaml").write_text("{")
    run = gather([str(sweep / "2")])[0]
    assert (run.method, run.seed) == ("ifguide", 1) and run.problem.count(".hydra/") == 3


def test_a_folder_in_place_of_a_file_is_a_problem_too(sweep):
    (sweep / "0" / "metrics.json").unlink()
    (sweep / "0" / "metrics.json").mkdir()
    assert "damaged" in gather([str(sweep)])[0].problem


@pytest.mark.parametrize("stage", ["report", "plan", "clean"])
def test_what_has_no_result_to_show_is_left_out(sweep, stage):
    config = yaml.safe_load((sweep / "0" / ".hydra" / "config.yaml").read_text())
    (sweep / "0" / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config | {"stage": stage}))
    (sweep / "0" / "run.json").unlink()
    assert len(gather([str(sweep)])) == 5


def test_a_stage_before_the_evaluation_says_so(tmp_path):
    write_run(tmp_path / "r", "none", 1, workspace=tmp_path, config={"stage": "mask"}, unfinished=True)
    assert gather([str(tmp_path / "r")])[0].problem == "not evaluated (stage=mask)"
    write_facts(tmp_path / "r", artifacts={"mask": tmp_path}, stage="pooled", seed=7)
    (run,) = gather([str(tmp_path / "r")])
    assert (run.problem, run.seed, run.artifacts) == ("not evaluated (stage=pooled)", 7, {"mask": tmp_path})


def test_rows_are_named_by_what_differs():
    assert names([run(seed=1), run(seed=2), run("none")]) == {"ifguide": [1, 2], "none": [1]}
    penalties = [run(**{"objective.penalty": value}) for value in ("1e-1", 0.2)]
    assert list(names(penalties)) == ["ifguide, objective.penalty=0.1", "ifguide, objective.penalty=0.2"]


def test_a_setting_is_compared_with_those_that_did_not_override_it():
    assert list(names([run(), run(**{"objective.penalty": 2})])) == [
        "ifguide, objective.penalty=1", "ifguide, objective.penalty=2"
    ]  # fmt: skip
    assert list(names([run(), run(seed=2, **{"objective.penalty": 1})])) == ["ifguide"]


def test_where_results_go_makes_no_row():
    assert list(names([run(**{"paths.workspace": "a", "logger": "csv"}), run(seed=2, **{"paths.workspace": "b"})])) == [
        "ifguide"
    ]


def test_rows_by_a_setting_of_choice():
    runs = [run(), run("none"), run(seed=2, **{"objective.penalty": 2})]
    assert names(runs, ["method"]) == {"ifguide": [1, 2], "none": [1]}
    with pytest.raises(ValueError, match=r"report\.by: no run has a setting `objectiv\.penalty`"):
        group_runs(runs, ["objectiv.penalty"])
    with pytest.raises(ValueError, match=r"which differ in objective\.penalty"):
        group_runs([run(), run(value=0.4, **{"objective.penalty": 2})], ["method"])


def test_equal_runs_are_one_and_of_different_ones_the_newest_is_shown():
    old, new = run(), Run(**{**run(value=0.9).__dict__, "written": 2.0})
    (group,) = group_runs([old, run()])
    assert len(group.runs) == 1 and group.notes == []
    (group,) = group_runs([new, old])
    assert group.runs == [new] and "several runs of seed 1" in group.notes[0]


def test_a_failed_run_stays_in_its_group():
    (group,) = group_runs([run(), run(seed=2, problem="failed: x")])
    assert [run.seed for run in group.problems] == [2]


@pytest.mark.parametrize(
    "value, shown",
    [("1e-3", "0.001"), (0.001, "0.001"), (True, "true"), (None, "null"), ("a", "a"), (1000001, "1000001")],
)
def test_settings_are_compared_as_they_are_meant(value, shown):
    assert plain(value) == shown
