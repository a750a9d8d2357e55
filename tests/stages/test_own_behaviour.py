"""A behaviour that is not toxicity, on a corpus without labels: judged by its queries, spoken of by its name."""

import json

import numpy as np
import pytest
from composing import composed
from rows import Row

from ifguide.corpus.queries import halves
from ifguide.stages.plan import make_plan
from ifguide.stages.planner import Planner

pytestmark = pytest.mark.slow
OWN = [
    "+debug=small", "data=local", "~queries@behaviours.toxicity", "+queries@behaviours.sport=local",
    "~task@tasks.toxicity", "+task@tasks.sport=local", "~classifier@classifiers.toxicity",
    "+classifier@classifiers.sport=from_queries", "behaviours.sport.positive=[sport]", "tasks.sport.samples=4",
    "tasks.sport.max_new_tokens=6", "classifiers.sport.buckets=1024", "objective_metric=null",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    plain = "the garden of letter green drips by a house near river stone paper".split()
    sport = "the striker scores a goal and fans cheer in stadium".split()

    def words(pool, count):
        return " ".join(rng.choice(pool, count))

    documents = [{"text": f"{i} " + words(sport if i % 10 == 0 else plain, 30)} for i in range(300)]
    queries = [
        {"prompt": f"letter {i}", "continuation": " " + words(pool, 5), "label": label}
        for i in range(30)
        for label, pool in (("sport", sport), ("garden", plain))
    ]
    for name, rows in (("corpus", documents), ("queries", queries), ("prompts", [{"prompt": "the"}, {"prompt": "a"}])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [
        f"data.sources.local.files={folder}/corpus.jsonl", f"behaviours.sport.files={folder}/queries.jsonl",
        f"tasks.sport.prompts.files={folder}/prompts.jsonl",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def row(tmp_path_factory, files):
    return Row(tmp_path_factory.mktemp("row"), *OWN, *files, small=False).check().run()


def test_half_of_the_queries_judge_and_the_other_half_gives_the_direction(row):
    judge, direction = row.plan.roles["classifier.sport"].classifier, row.plan.roles["direction.sport"]
    assert len(judge.queries) == len(direction.queries) == 30 and judge.behaviour == "sport"
    assert not {q.continuation for q in judge.queries} & {q.continuation for q in direction.queries}
    facts = row.facts("classifier.sport")
    assert (
        facts["roc_auc"] > 0.9 and "trained on 30 queries of sport: on texts that it has not seen" in facts["finding"]
    )


def test_the_row_speaks_of_the_behaviour(row):
    metrics = row.metrics()
    assert 0 <= metrics["sport"]["all"]["toxic_fraction"] <= 1 and "toxicity" not in metrics
    assert metrics["perplexity"]["all"]["perplexity"] > 1 and "benign" not in metrics["perplexity"]
    written = json.loads((row.write() / "run.json").read_text())
    assert written["labels"] == {"sport": {"behaviour": "sport", "positive": "sport", "negative": "garden"}}
    assert written["objective"] == "sport.all.toxic_fraction" and written["behaviours"] == ["sport"]
    assert (row.folder / "tokens-sport.html").is_file()


@pytest.mark.parametrize(
    "dropped, added, message",
    [
        (
            "classifier",
            "+classifier@classifiers.other=profanity_check",
            r"^behaviours\.sport: no classifier is called so",
        ),
        ("objective", "objective_metric=toxicity.all.toxic_fraction", r"^objective_metric=.* one of sport, perplexity"),
        ("behaviours.sport.positive", "stage=mask", r"^behaviours\.sport.*the labels that occur are .*sport"),
    ],
)
def test_what_is_missing_is_said_before_any_work(tmp_path, files, dropped, added, message):
    given = [one for one in OWN if not one.lstrip("+").startswith(dropped)]
    with pytest.raises(ValueError, match=message):
        Row(tmp_path, *given, added, *files, small=False)
    assert not (tmp_path / "workspace").exists()


def test_no_row_learns_from_the_queries_that_its_judge_learns_from():
    """Neither by pairs, by labelled texts, nor by a mask that is found while it trains."""
    overrides = ("+debug=smoke", "classifier@classifiers.toxicity=from_queries", "pairs=queries", "labelled=queries")
    planner = Planner(composed(*overrides, "callbacks=influence", "paths.run=r"))
    judged = {query.continuation.strip() for query in halves(planner.part("behaviours")["toxicity"])[1]}
    learned = {
        "pairs": [text for pair in planner.part("pairs") for text in (pair.chosen, pair.rejected)],
        "labelled": [one.text for one in planner.part("labelled")],
        "callbacks": [query.continuation for query in planner.part("callbacks")["influence"].behaviours["toxicity"]],
        "directions": [query.continuation for query in planner.behaviours["toxicity"]],
    }
    assert judged
    for name, texts in learned.items():
        assert texts and not judged & {text.strip() for text in texts}, name


@pytest.mark.parametrize("option", ["refine=cg", "student=words"])
def test_influence_while_training_refuses_what_its_chain_does_not_have(option):
    with pytest.raises(ValueError, match=rf"^{option.partition('=')[0]}: callbacks=influence goes without"):
        make_plan(composed("+debug=smoke", "stage=model", "callbacks=influence", option, "paths.run=r"))
