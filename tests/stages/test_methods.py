"""Every method that filters or changes the objective, end to end on a few documents."""

import numpy as np
import pytest
from rows import Row

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.queries import encode_queries
from ifguide.influence.direction import load_direction, precondition_direction, query_gradient
from ifguide.influence.store import open_scores

pytest.importorskip("profanity_check")
pytestmark = pytest.mark.slow
FILTERS = {
    "word_filter": ("behaviours.toxicity.size=1000",),
    "toxicity_filter": ("filter.threshold=0.8",),
    "influence_filter": ("filter.share=0.2", "curvature=identity"),
}


@pytest.fixture(scope="module")
def folder(begun):
    return begun()


@pytest.fixture(scope="module")
def rows(folder):
    """Rows of all methods, by name; they share a workspace."""
    made = {}

    def row(method, *overrides):
        if (method, overrides) not in made:
            made[method, overrides] = Row(folder, f"method={method}", *overrides).run()
        return made[method, overrides]

    return row


@pytest.mark.parametrize("method", ["unlikelihood", "npo", "simnpo", "faded_ascent", "token_filter", "token_removal"])
def test_objectives_share_all_up_to_the_mask(rows, method):
    ours, theirs = rows(method), rows("ifguide")
    assert ours.path("mask") == theirs.path("mask") and ours.path("model") != theirs.path("model")
    assert np.isfinite(ours.metrics()["perplexity"]["benign"]["perplexity"])
    assert "filter" not in ours.metrics()


@pytest.mark.parametrize("method", ["word_filter", "toxicity_filter"])
def test_text_filters_drop_mostly_toxic_documents(rows, method):
    row = rows(method, *FILTERS[method])
    facts = row.metrics()["filter"]
    assert facts["all"]["precision"] > 0.5 and facts["all"]["recall"] > 0.9
    assert facts == row.facts("filtered")["filter"]
    split, kept = row.corpus.split("train"), Corpus(row.path("filtered")).split("train")
    assert facts["all"]["documents"] == len(split.documents) > len(kept.documents) > 0
    assert row.facts("model")["tokens"] < rows("none").facts("model")["tokens"]
    assert not any(name in row.made for name in ("proxy", "mask", "scores"))


def test_a_threshold_judges_the_corpus_once_and_says_what_goes(folder, rows, caplog):
    first = rows("toxicity_filter", *FILTERS["toxicity_filter"])
    options = ["method=toxicity_filter", "filter.threshold=null", "filter.share=0.1", "stage=filtered"]
    with caplog.at_level("INFO"):
        share = Row(folder, *options).run()
    assert share.path("filtered") != first.path("filtered")
    assert share.path("document_scores") == first.path("document_scores")
    facts = share.facts("filtered")["filter"]["all"]
    assert facts["documents_dropped"] == int(0.1 * facts["documents"])
    assert f"drops {facts['documents_dropped']} of {facts['documents']} training documents" in caplog.text


def test_standard_influence_is_along_the_toxic_gradient_alone(folder, rows):
    row = rows("influence_filter", *FILTERS["influence_filter"])
    model, direction = row.model("proxy"), row.plan.roles["direction.toxicity.toxic"]
    assert direction.queries and all(query.toxic for query in direction.queries)
    encoded = encode_queries(direction.queries, row.corpus.tokenizer, row.corpus.info["block_length"])
    gradient = query_gradient(model, encoded, batch_size=5)
    expected = precondition_direction(model, gradient, {}, direction.curvature)
    found = load_direction(row.path("direction.toxicity.toxic"), model)
    assert all((found[name] - value).norm() < 1e-4 * value.norm() for name, value in expected.items())
    split, scores = row.corpus.split("train"), open_scores(row.path("scores.toxic"))[0]
    sums = np.bincount(split.documents_of(np.arange(scores.size)), weights=scores.reshape(-1))
    dropped = np.zeros(len(sums), bool)
    dropped[np.argsort(-sums, kind="stable")[: int(0.2 * len(sums))]] = True
    assert (np.load(row.path("filtered") / "dropped.npy") == dropped).all()
    contrast = Row(folder, "method=influence_filter", "curvature=identity", "filter.contrast=true").plan
    assert contrast.roles["document_scores"].fingerprint != row.made["document_scores"].fingerprint
    assert contrast.roles["direction.toxicity"].fingerprint != direction.fingerprint


def test_a_filter_and_a_mask_compose(folder, rows):
    """The mask is that of the whole corpus, and its bits follow their tokens."""
    options = ["filter=classifier", "filter.threshold=0.9"]
    both, ifguide = Row(folder, *options).run(), rows("ifguide")
    assert both.path("mask") == ifguide.path("mask")
    mask = TokenMask.open(both.path("filtered_mask") / "mask.npy", 32)
    split, kept = both.corpus.split("train"), Corpus(both.path("filtered")).split("train")
    dropped = np.load(both.path("filtered") / "dropped.npy")
    keep = ~dropped[split.documents_of(np.arange(split.shape[0] * 32))]
    expected = both.mask[:].reshape(-1)[keep][: len(kept) * 32].reshape(-1, 32)
    expected[:, 0] = False
    assert (mask[:] == expected).all() and 0 < mask.count() <= both.mask.count()
    assert set(both.made["model"].manifest["inputs"]) == {"data", "mask", "filtered"} and both.metrics()["filter"]
    assert both.metrics()["attribution"] == ifguide.metrics()["attribution"]


def test_rows_judged_by_their_own_classifier_are_marked(rows):
    row, words = (rows(name, *FILTERS[name]) for name in ("toxicity_filter", "word_filter"))
    (note,) = row.plan.row["notes"]
    assert note.startswith("Made with a classifier that evaluates it (alt-profanity-check")
    assert words.plan.row["notes"] == rows("none").plan.row["notes"] == []


def test_a_row_costs_all_that_it_was_made_from(rows):
    seconds = {name: rows(name).metrics()["cost"]["all"]["seconds"] for name in ("none", "ifguide", "npo")}
    row = rows("ifguide")
    roles = (
        "data", "proxy", "factors", "direction.toxicity", "scores", "pooled", "mask", "model", "generations.toxicity",
    )  # fmt: skip
    by_hand = sum(row.made[role].manifest["seconds"] for role in roles)
    assert seconds["ifguide"] == pytest.approx(by_hand, abs=0.02)
    assert 0 < seconds["none"] < min(seconds["ifguide"], seconds["npo"])


def test_mistakes_are_named_before_any_work(folder):
    for override, message in (
        ("filter.share=0.1", r"^filter\..*exactly one"),
        ("filter.window=0", r"^filter\.window=0"),
    ):
        with pytest.raises(ValueError, match=message):
            Row(folder / "untouched", "method=toxicity_filter", override)
    with pytest.raises(ValueError, match=r"^filter.*no file matches"):
        Row(folder / "untouched", "method=word_filter", "filter.files=nowhere.txt")
    assert not (folder / "untouched").exists()
    with pytest.raises(ValueError, match="less than one block"):
        Row(folder, "method=toxicity_filter", "filter.threshold=0", "stage=filtered").run()


def test_a_filter_that_only_reads_needs_no_queries(folder):
    options = ["data.sources.sample.size=150", "data.tokenizer.vocabulary=400", "data.block_length=32"]
    queries = "queries@behaviours.toxicity=local"
    row = Row(folder, "method=toxicity_filter", queries, "stage=filtered", *options, small=False).run()
    assert row.path("filtered").is_dir()
