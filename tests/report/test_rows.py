import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from run_folders import COLUMNS, HEADLINE, beta, write_run, write_sweep

from ifguide.corpus.documents import Prompt
from ifguide.decoding.generation import GENERATIONS_FILE, load_generations, save_generations
from ifguide.report import rows as rows_module
from ifguide.report.formats import explanation, markdown
from ifguide.report.gather import gather
from ifguide.report.rows import (
    NO_UTILITY,
    ONE_SEED,
    OTHER_SEEDS,
    OTHER_TEXTS,
    PARTLY_PAIRED,
    RECORDED,
    SHARED,
    STEERED,
    UNPAIRED,
    compare_rows,
)
from ifguide.report.table import Column
from ifguide.report.values import category_fractions, difference_from, recorded_mean
from ifguide.statistics import paired_difference, proportion_interval

METHODS = (("none", 0.9, 12.0), ("ifguide", 0.3, 12.5))
PERPLEXITY = next(column for column in COLUMNS if column.header == "benign perplexity ↓")


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path, seeds=(1, 2, 3), methods=METHODS)


def fractions(folder):
    """[prompts], read without the code under test."""
    artifacts = json.loads((folder / "run.json").read_text())["artifacts"]
    with np.load(Path(artifacts["evaluation"]) / "probabilities-toxicity.npz") as archive:
        return (archive["toxicity"] >= 0.5).sum(1) / archive["toxicity"].shape[1]


def test_means_intervals_and_differences_are_those_of_seeds_and_prompts(sweep):
    none, ifguide = compare_rows(gather([str(sweep)])).measured
    theirs = np.stack([fractions(sweep / str(job)) for job in (0, 1, 2)])
    ours = np.stack([fractions(sweep / str(job)) for job in (3, 4, 5)])
    assert ifguide.cells[HEADLINE].value == pytest.approx(ours.mean())
    assert ifguide.cells[HEADLINE].interval == pytest.approx(proportion_interval(ours))
    difference = paired_difference(ours, theirs)
    assert ifguide.differences[HEADLINE].value == pytest.approx(difference.value)
    assert ifguide.differences[HEADLINE].interval == pytest.approx(difference.interval)
    assert ifguide.differences[HEADLINE].p == pytest.approx(difference.p)
    assert none.differences == {} and none.seeds == ifguide.seeds == (1, 2, 3)
    toxic = Column("x", "toxicity", "toxic", "toxic_fraction")
    (column,) = [column for column in ifguide.cells if column.subset == "toxic" and column.metric == toxic.metric]
    assert ifguide.cells[column].value == pytest.approx(ours[:, ::3].mean())


def test_pairs_are_found_by_prompt_and_seed_not_by_place(sweep):
    """The prompts of one run turned round, and the reference's seeds in another order: the same row."""
    before = compare_rows(gather([str(sweep)])).measured[1]
    artifacts = json.loads((sweep / "4" / "run.json").read_text())["artifacts"]
    file = Path(artifacts["evaluation"]) / "probabilities-toxicity.npz"
    with np.load(file) as archive:
        turned = {name: archive[name][::-1] for name in archive.files}
    np.savez(file, **turned)
    texts = Path(artifacts["generations.toxicity"]) / GENERATIONS_FILE
    table = load_generations(texts)[:]
    asked = [Prompt(*row) for row in zip(table["prompt"], table["subset"], table["record"], strict=True)]
    save_generations(texts, asked[::-1], table["continuations"][::-1])
    (sweep / "0").rename(sweep / "90")
    (sweep / "2").rename(sweep / "0")
    after = next(row for row in compare_rows(gather([str(sweep)])).measured if row.name == "ifguide")
    assert after.differences[HEADLINE] == before.differences[HEADLINE]
    assert after.cells[HEADLINE] == before.cells[HEADLINE]


def test_only_seeds_that_both_have_are_paired(tmp_path):
    workspace, rng = tmp_path / "workspace", np.random.default_rng(0)
    for job, (method, seed) in enumerate([("none", 1), ("none", 2), ("ifguide", 2), ("ifguide", 3)]):
        write_run(tmp_path / "sweep" / str(job), method, seed, beta(rng, 0.5), workspace=workspace)
    row = compare_rows(gather([str(tmp_path / "sweep")])).measured[1]
    difference = paired_difference(*(fractions(tmp_path / "sweep" / job)[None] for job in "21"))
    assert row.differences[HEADLINE].value == pytest.approx(difference.value)
    assert f"{PARTLY_PAIRED}: 2" in row.notes
    (tmp_path / "sweep" / "2").rename(tmp_path / "elsewhere")
    row = compare_rows(gather([str(tmp_path / "sweep")])).measured[1]
    assert HEADLINE not in row.differences and UNPAIRED in row.notes


def test_a_perplexity_is_never_below_one(tmp_path):
    for seed, perplexity in ((1, 5.0), (2, 60.0)):
        given = {"workspace": tmp_path / "w", "documents": 30, "perplexity": perplexity}
        write_run(tmp_path / "s" / str(seed), "none", seed, np.full((9, 2), 0.1), **given)
    (row,) = compare_rows(gather([str(tmp_path / "s")])).measured
    assert row.cells[PERPLEXITY].interval[0] == 1.0 < 60 < row.cells[PERPLEXITY].interval[1]


def test_one_seed_is_labelled(tmp_path):
    values = beta(np.random.default_rng(0), 0.5)
    write_run(tmp_path / "sweep" / "0", "none", 1, values, workspace=tmp_path / "workspace")
    (row,) = compare_rows(gather([str(tmp_path / "sweep")])).rows
    assert ONE_SEED in row.notes
    assert row.cells[PERPLEXITY].interval == (11.0, 13.0)


def test_without_artifacts_metrics_json_is_used_and_said_so(sweep):
    exact = compare_rows(gather([str(sweep)])).measured[1]
    (sweep.parent / "workspace").rename(sweep.parent / "gone")
    row = compare_rows(gather([str(sweep)])).measured[1]
    assert RECORDED in row.notes and RECORDED not in exact.notes
    assert row.cells[HEADLINE].value == pytest.approx(exact.cells[HEADLINE].value)
    assert row.differences[HEADLINE].value == pytest.approx(exact.differences[HEADLINE].value)
    assert row.differences[HEADLINE].interval is None


def test_recorded_intervals_of_several_seeds_cover_both_sources(sweep):
    """Against a simulation in which the truth is known: a shared error of the documents, one of each seed."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        shared = rng.normal(scale=1.0)
        runs = [
            rows_module.Run("x", metrics={"perplexity": {"benign": {"perplexity": value, "perplexity_interval":
                    [value - 1.96, value + 1.96]}}})
            for value in 20 + shared + rng.normal(scale=0.5, size=5)
        ]  # fmt: skip
        low, high = recorded_mean(runs, PERPLEXITY).interval
        covered.append(low <= 20 <= high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_the_interval_of_probabilities_ends_where_they_do(tmp_path):
    rng = np.random.default_rng(0)
    for seed, level in ((1, 0.6), (2, 0.9)):  # two seeds that differ: by Student's t, nothing is excluded
        values = np.clip(level + rng.normal(scale=0.02, size=(20, 5)), 0, 1)
        write_run(tmp_path / str(seed), "none", seed, values, workspace=tmp_path / "workspace")
    (row,) = compare_rows(gather([str(tmp_path / "1"), str(tmp_path / "2")])).measured
    maximum = next(cell for column, cell in row.cells.items() if column.metric == "expected_maximum_toxicity")
    assert maximum.value == pytest.approx(0.77, abs=0.02) and maximum.interval == (0.0, 1.0)


def test_seeds_alone_make_no_interval():
    runs = [rows_module.Run("x", metrics={"attribution": {"all": {"roc_auc": 0.9}}})] * 3
    assert recorded_mean(runs, next(c for c in COLUMNS if c.task == "attribution")).interval is None


def test_failed_and_unfinished_runs_are_rows(sweep):
    comparison = compare_rows(gather([str(sweep)]))
    assert [(row.name, row.problem.split(":")[0]) for row in comparison.failed] == [
        ("dpo, seed 4", "failed"), ("rad, seed 1", "unfinished")
    ]  # fmt: skip


def test_the_reference_may_be_a_row_a_method_or_nobody(sweep):
    runs = gather([str(sweep)])
    assert compare_rows(runs, reference="ifguide").rows[0].reference == "ifguide"
    assert all(not row.differences for row in compare_rows(runs, reference=None).rows)
    assert compare_rows([run for run in runs if run.method != "none"]).reference is None
    with pytest.raises(ValueError, match=r"report\.reference=non: rows are: none, ifguide"):
        compare_rows(runs, reference="non")


def test_each_row_is_compared_with_the_reference_of_its_own_kind(tmp_path):
    for job, (method, size) in enumerate([("none", 1), ("none", 2), ("ifguide", 1), ("ifguide", 2)]):
        write_run(
            tmp_path / "sweep" / str(job), method, 1, np.full((4, 2), 0.3 * size), workspace=tmp_path / "workspace",
            overrides=[f"model.size={size}"], config={"model": {"size": size}},
        )  # fmt: skip
    rows = compare_rows(gather([str(tmp_path / "sweep")])).rows
    assert [row.reference for row in rows] == [None, None, "none, model.size=1", "none, model.size=2"]


def test_further_tasks_and_classifiers_have_their_headline_in_the_table():
    task = {"all": {"prompts": 3, "toxic_fraction": 0.1, "toxicity_probability": 0.2}}
    metrics = {
        "toxicity": task,
        "toxicity_implicit": task,
        "lambada": {"all": {"accuracy": 0.4, "passages": 9}},
        "harness": {"all": {"acc": 0.3, "tasks": 2}},
    }
    comparison = compare_rows(
        [rows_module.Run("x", {}, {"method": "none"}, {}, metrics, judged={"toxicity_implicit": "toxicity"})]
    )
    headers = [column.header for column in comparison.columns]
    assert headers[2:] == ["toxicity implicit: toxic fraction ↓", "lambada: accuracy ↑", "harness: acc ↑"]
    assert len(comparison.every_column) == 6


def test_categories_are_averaged_over_seeds(sweep):
    row = compare_rows(gather([str(sweep)])).measured[0]
    measured = category_fractions(row.runs, "toxicity")
    assert set(measured) == {"toxicity", "insult", "obscene", "threat", "identity_attack"}
    assert measured["toxicity"].value == pytest.approx(row.cells[HEADLINE].value)
    assert measured["threat"].value < measured["insult"].value


def test_nothing_to_report_on():
    with pytest.raises(ValueError, match="no runs"):
        compare_rows([])


def test_documents_pair_perplexities(tmp_path):
    """Against the definition: the same documents and seeds on both sides, so what makes a document hard cancels."""
    for job, (method, seed) in enumerate([("none", 1), ("none", 2), ("ifguide", 1), ("ifguide", 2)]):
        values = beta(np.random.default_rng([job, seed]), 0.5)
        write_run(tmp_path / "s" / str(job), method, seed, values, workspace=tmp_path / "w",
                  perplexity=12.0 + 0.3 * (method == "ifguide"), documents=200)  # fmt: skip
    comparison = compare_rows(gather([str(tmp_path / "s")]))
    none, ifguide = comparison.measured
    assert comparison.utility == PERPLEXITY
    difference, cell = ifguide.differences[PERPLEXITY], ifguide.cells[PERPLEXITY]
    assert difference.value == pytest.approx(cell.value - none.cells[PERPLEXITY].value)
    low, high = difference.interval
    assert low <= difference.value <= high and high - low < 0.1 * (cell.interval[1] - cell.interval[0])
    assert cell.units == 133  # those that are not toxic
    (tmp_path / "w" / "perplexity-s-3-ifguide" / "losses.npz").unlink()  # an artifact of an earlier version
    again = compare_rows(gather([str(tmp_path / "s")])).measured[1]
    assert again.differences[PERPLEXITY].interval is None
    assert again.differences[PERPLEXITY].value == pytest.approx(difference.value)


def test_documents_of_two_corpora_do_not_pair(tmp_path):
    """Their sources and records have the same numbers."""
    for job, (method, corpus) in enumerate([("none", "data-1"), ("ifguide", "data-2")]):
        place = write_run(tmp_path / "s" / str(job), method, 1, [[0.9, 0.1]] * 9, workspace=tmp_path / "w",
                          perplexity=12.0 + job, documents=200)  # fmt: skip
        facts = json.loads((place / "run.json").read_text())
        (tmp_path / "w" / corpus).mkdir()
        facts["artifacts"]["data"] = str(tmp_path / "w" / corpus)
        (place / "run.json").write_text(json.dumps(facts))
    comparison = compare_rows(gather([str(tmp_path / "s")]))
    _, ifguide = comparison.measured
    assert ifguide.cells[PERPLEXITY].interval is not None
    assert PERPLEXITY not in ifguide.differences and OTHER_TEXTS in ifguide.notes


def test_what_differences_are_over_is_said(tmp_path):
    """The reference answered prompts that a row did not; and the seeds of a row have different prompts."""
    rng, place = np.random.default_rng(0), {"workspace": tmp_path / "w"}
    for job, (method, seed, prompts) in enumerate([("none", 1, 30), ("ifguide", 1, 20), ("dpo", 1, 30)]):
        write_run(tmp_path / "s" / str(job), method, seed, rng.random((prompts, 4)), **place)
    _, ifguide, dpo = compare_rows(gather([str(tmp_path / "s")])).measured
    assert ifguide.differences[HEADLINE].units == 20 and SHARED in ifguide.notes and SHARED not in dpo.notes
    write_run(tmp_path / "s" / "3", "dpo", 2, rng.random((20, 4)), **place)
    row = compare_rows(gather([str(tmp_path / "s")])).measured[-1]
    assert OTHER_SEEDS in row.notes and RECORDED not in row.notes


def test_names_with_a_bar_keep_the_columns_of_a_table(tmp_path):
    for job, (method, file) in enumerate([("none", "a|b"), ("ifguide", "c")]):
        given = {"workspace": tmp_path / "w", "overrides": [f"data.file={file}"], "documents": 9}
        write_run(tmp_path / "s" / str(job), method, 1, np.full((6, 2), 0.1 + job / 2), **given)
    rows = compare_rows(gather([str(tmp_path / "s")]), reference="none, data.file=a|b")
    table = markdown(rows).split("\n\n")[0].splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1 and "a\\|b" in table[0]


def test_prompts_pair_by_their_text_however_their_file_is_spelled(sweep):
    before = compare_rows(gather([str(sweep)])).measured[1]
    artifacts = json.loads((sweep / "4" / "run.json").read_text())["artifacts"]
    texts = Path(artifacts["generations.toxicity"]) / GENERATIONS_FILE
    table = load_generations(texts)[:]
    rows = zip(table["prompt"], table["subset"], table["record"], strict=True)
    save_generations(texts, [Prompt(*row[:2], f"../{row[2]}") for row in rows], table["continuations"])
    after = compare_rows(gather([str(sweep)])).measured[1]
    assert after.differences[HEADLINE] == before.differences[HEADLINE]


def test_what_is_not_told_apart_from_the_best_is_best_too(tmp_path):
    rng = np.random.default_rng(0)
    for job, (method, mean) in enumerate([("none", 0.9), ("ifguide", 0.3), ("npo", 0.3)]):
        values = beta(rng, mean)
        write_run(tmp_path / "s" / str(job), method, 1, values, workspace=tmp_path / "w", documents=50)
    comparison = compare_rows(gather([str(tmp_path / "s")]))
    ours, theirs = comparison.measured[1:]
    low, high = difference_from(ours.runs, theirs.runs, HEADLINE).interval
    assert low < 0 < high and ours.cells[HEADLINE].value != theirs.cells[HEADLINE].value
    assert comparison.best[HEADLINE] == {"ifguide", "npo"}


def test_no_row_is_the_best_whose_utility_nobody_measured(tmp_path):
    for job, (method, mean) in enumerate([("none", 0.9), ("ifguide", 0.4), ("rad", 0.1)]):
        values = beta(np.random.default_rng(job), mean)
        write_run(tmp_path / str(job), method, 1, values, workspace=tmp_path / "w", steered=method == "rad")
    comparison = compare_rows(gather([str(tmp_path)]))
    assert comparison.best[HEADLINE] == {"ifguide"}
    rad = comparison.measured[2]
    assert rad.steered and STEERED in rad.notes and NO_UTILITY in rad.notes
    for folder in tmp_path.glob("[012]"):
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics.pop("perplexity", None)
        (folder / "metrics.json").write_text(json.dumps(metrics))
    comparison = compare_rows(gather([str(tmp_path)]))
    assert comparison.best == {} and comparison.utility is None


def test_a_corpus_without_labels_has_the_perplexity_of_all_its_documents(tmp_path):
    for job, method in enumerate(("none", "ifguide")):
        write_run(tmp_path / str(job), method, 1, beta(np.random.default_rng(job), 0.5), workspace=tmp_path / "w",
                  documents=30, labelled=False)  # fmt: skip
    comparison = compare_rows(gather([str(tmp_path)]))
    assert comparison.utility.header == "perplexity, all held-out documents ↓"
    assert not any("benign" in column.header for column in comparison.columns)
    assert comparison.measured[1].differences[comparison.utility].units == 30


def test_tiny_samples_and_samples_without_an_event_are_marked(tmp_path):
    write_run(tmp_path / "0", "none", 1, np.full((40, 3), 0.9), workspace=tmp_path / "w", documents=3)
    write_run(tmp_path / "1", "ifguide", 1, np.zeros((40, 3)), workspace=tmp_path / "w", documents=3)
    none, ifguide = compare_rows(gather([str(tmp_path)])).measured
    low, high = ifguide.cells[HEADLINE].interval
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 40))  # of 40 prompts, not 120 samples
    assert none.cells[HEADLINE].interval == pytest.approx((0.025 ** (1 / 40), 1))
    assert ifguide.remarks[HEADLINE].startswith("no toxic sample for any of 40 prompts: the upper bound is exact")
    assert HEADLINE not in none.remarks
    assert none.cells[PERPLEXITY].interval is None
    assert none.remarks[PERPLEXITY] == "2 documents: too few for an interval"
    shutil.rmtree(tmp_path / "w")
    recorded = compare_rows(gather([str(tmp_path)])).measured[1].cells[HEADLINE]
    assert recorded.interval == pytest.approx((low, high))


def test_another_behaviour_has_its_own_words_everywhere(tmp_path):
    """The first task is the headline whatever it is called, and nothing is called toxic."""
    labels = {"reviews": {"behaviour": "praise", "positive": "flattering", "negative": "plain"}}
    for job, method in enumerate(("none", "ifguide")):
        write_run(tmp_path / str(job), method, 1, beta(np.random.default_rng(job), 0.5), workspace=tmp_path / "w",
                  documents=30, task="reviews", facts={"labels": labels, "behaviours": ["praise"]})  # fmt: skip
    comparison = compare_rows(gather([str(tmp_path)]))
    headers = [column.header for column in comparison.columns]
    assert headers[:3] == ["praise: fraction of samples ↓", "praise: probability ↓", "praise: expected max. ↓"]
    assert headers[3:] == ["perplexity, plain documents ↓", "perplexity, flattering documents ↑"]
    assert comparison.headline.task == "reviews" and comparison.headline in comparison.measured[1].differences
    others = [column.header for column in comparison.every_column if column not in comparison.columns]
    assert "reviews.nontoxic.fraction of samples" in others  # a subset of the prompts is named as its file says
    assert not [header for header in others if "toxic" in header.replace(".nontoxic.", "").replace(".toxic.", "")]


def test_without_labels_a_task_is_called_by_its_name(tmp_path):
    write_run(tmp_path / "0", "none", 1, np.full((6, 2), 0.3), workspace=tmp_path / "w", task="sport")
    comparison = compare_rows(gather([str(tmp_path)]))
    assert comparison.headline.header == "sport: fraction of samples ↓" and comparison.wording.positive == "sport"


def test_fewer_than_five_seeds_are_said(sweep):
    notes = compare_rows(gather([str(sweep)])).measured[0].notes
    assert any(note.startswith("3 seeds: fewer than 5 say little of others") for note in notes)


def test_differences_that_hold_after_holms_correction_are_named(tmp_path):
    """Against the definition: the smallest p-value times as many as there are, the next times one less, and so on."""
    for job, (method, mean) in enumerate([("none", 0.9), ("ifguide", 0.2), ("npo", 0.85)]):
        for seed in (1, 2, 3):
            values = beta(np.random.default_rng([job, seed]), mean)
            write_run(tmp_path / "s" / f"{job}{seed}", method, seed, values, workspace=tmp_path / "w",
                      perplexity=12.0 + job, documents=50)  # fmt: skip
    comparison = compare_rows(gather([str(tmp_path / "s")]))
    tested = [row.differences[column].p for row in comparison.measured[1:] for column in (HEADLINE, PERPLEXITY)]
    assert len(tested) == 4 and max(tested[0], tested[1], tested[3]) * 4 < 0.05 < tested[2]
    text = explanation(comparison)
    assert (
        "4 differences are compared with 0" in text
        and "in toxic fraction ifguide; in benign perplexity ifguide, npo." in text
    )
    assert "by Student's t for each of the two" in text
    assert "Holm" not in explanation(
        compare_rows([run for run in gather([str(tmp_path / "s")]) if run.method != "npo"])
    )
