"""Every method that filters or changes the objective, end to end on a few documents."""

import json

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from test_pipeline import CONF, TINY, pipeline

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.queries import encode_queries
from ifguide.influence.direction import load_direction, precondition_direction, query_gradient
from ifguide.influence.store import open_scores
from ifguide.models import load_model
from ifguide.pipeline import Pipeline
from ifguide.results import write_results

pytest.importorskip("profanity_check")
FILTERS = {
    "word_filter": ("queries.size=1000",),
    "toxicity_filter": ("filter.threshold=0.8",),
    "influence_filter": ("filter.share=0.2",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def rows(folder):
    """Pipelines of all methods, by name; they share a workspace."""
    made = {}

    def row(method, *overrides):
        if (method, overrides) not in made:
            made[method, overrides] = pipeline(folder, f"method={method}", "curvature=identity", *overrides)
            made[method, overrides].evaluation()
        return made[method, overrides]

    return row


@pytest.mark.parametrize("method", ["unlikelihood", "npo", "faded_ascent", "token_filter"])
def test_objectives_share_all_up_to_the_mask(rows, method):
    ours, theirs = rows(method), rows("ifguide")
    assert ours.mask() == theirs.mask() and ours.model() != theirs.model()
    assert np.isfinite(ours.metrics()["perplexity"]["benign"]["perplexity"])
    assert "filter" not in ours.metrics()


@pytest.mark.parametrize("method", ["word_filter", "toxicity_filter"])
def test_text_filters_drop_mostly_toxic_documents(rows, method):
    row = rows(method, *FILTERS[method])
    facts = row.metrics()["filter"]
    assert facts["all"]["precision"] > 0.5 and facts["all"]["recall"] > 0.9
    assert facts == row.filtered().manifest["facts"]["filter"]
    split, kept = row.corpus.split("train"), Corpus(row.filtered().path).split("train")
    assert facts["all"]["documents"] == len(split.documents) > len(kept.documents) > 0
    assert row.model().manifest["facts"]["tokens"] < rows("none").model().manifest["facts"]["tokens"]
    assert not any(name in row.artifacts for name in ("proxy", "mask", "scores"))


def test_a_threshold_judges_the_corpus_once_and_says_what_goes(folder, rows, capsys):
    first = rows("toxicity_filter", *FILTERS["toxicity_filter"])
    capsys.readouterr()
    share = pipeline(folder, "method=toxicity_filter", "filter.threshold=null", "filter.share=0.1")
    assert share.filtered() != first.filtered() and share.document_scores() == first.document_scores()
    facts = share.filtered().manifest["facts"]["filter"]["all"]
    assert facts["documents_dropped"] == int(0.1 * facts["documents"])
    line = f"drops {facts['documents_dropped']} of {facts['documents']} training documents"
    assert line in capsys.readouterr().out


def test_standard_influence_is_along_the_toxic_gradient_alone(rows):
    row = rows("influence_filter", *FILTERS["influence_filter"])
    model = load_model(row.proxy().path)
    toxic = [query for query in row.queries["toxicity"] if query.toxic]
    encoded = encode_queries(toxic, row.corpus.tokenizer, row.corpus.info["block_length"])
    gradient = query_gradient(model, encoded, batch_size=5)
    expected = precondition_direction(model, gradient, {}, row.curvature)
    direction = load_direction(row.direction(contrast=False).path, model)
    assert all((direction[name] - value).norm() < 1e-4 * value.norm() for name, value in expected.items())
    assert row.direction(contrast=False) != row.direction()
    split, scores = row.corpus.split("train"), open_scores(row.scores(contrast=False).path)[0]
    sums = np.bincount(split.documents_of(np.arange(scores.size)), weights=scores.reshape(-1))
    dropped = np.zeros(len(sums), bool)
    dropped[np.argsort(-sums, kind="stable")[: int(0.2 * len(sums))]] = True
    assert (np.load(row.filtered().path / "dropped.npy") == dropped).all()
    contrast = pipeline(row.workspace.root.parent, "method=influence_filter", "curvature=identity", "filter.contrast=1")
    assert contrast.document_scores() != row.document_scores()


def test_a_filter_and_a_mask_compose(folder, rows):
    """The mask is that of the whole corpus, and its bits follow their tokens."""
    both, ifguide = pipeline(folder, "filter=classifier", "filter.threshold=0.9", "curvature=identity"), rows("ifguide")
    assert both.mask() == ifguide.mask()
    mask = TokenMask.open(both.filtered_mask().path / "mask.npy", 32)
    split, kept = both.corpus.split("train"), Corpus(both.filtered().path).split("train")
    dropped = np.load(both.filtered().path / "dropped.npy")
    keep = ~dropped[split.documents_of(np.arange(split.shape[0] * 32))]
    expected = both.train_mask()[:].reshape(-1)[keep][: len(kept) * 32].reshape(-1, 32)
    expected[:, 0] = False
    assert (mask[:] == expected).all() and 0 < mask.count() <= both.train_mask().count()
    manifest = both.model().manifest
    assert set(manifest["inputs"]) == {"data", "mask", "filtered"} and both.metrics()["filter"]
    assert both.metrics()["attribution"] == ifguide.metrics()["attribution"]


def test_rows_judged_by_their_own_classifier_are_marked(rows, tmp_path, capsys):
    row, words = (rows(name, *FILTERS[name]) for name in ("toxicity_filter", "word_filter"))
    write_results(row, rows("none"), tmp_path, name="toxicity_filter", reference_name="none")
    table = (tmp_path / "table.md").read_text()
    assert " toxicity_filter ¹" in table and "\n¹ Made with a classifier that evaluates it" in table
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["name"] == "toxicity_filter" and "alt-profanity-check" in described["notes"][0]
    assert words.notes == rows("none").notes == []


def test_a_row_costs_all_that_it_was_made_from(rows):
    seconds = {name: rows(name).metrics()["cost"]["all"]["seconds"] for name in ("none", "ifguide", "npo")}
    row = rows("ifguide")
    roles = ("data", "proxy", "factors", "direction", "scores", "pooled", "mask", "model", "generations")
    made = {role: row.artifacts[role] for role in roles}
    by_hand = sum(json.loads((path / "manifest.json").read_text())["seconds"] for path in made.values())
    assert seconds["ifguide"] == pytest.approx(by_hand, abs=0.02)
    assert 0 < seconds["none"] < min(seconds["ifguide"], seconds["npo"])


def test_mistakes_are_named_before_any_work(folder):
    for override, message in (("filter.share=0.1", "exactly one"), ("filter.window=0", "window=0")):
        with pytest.raises(Exception, match=message):
            pipeline(folder / "untouched", "method=toxicity_filter", override)
    with pytest.raises(Exception, match="no file matches"):
        pipeline(folder / "untouched", "method=word_filter", "filter.files=nowhere.txt")
    assert not (folder / "untouched").exists()
    with pytest.raises(ValueError, match="less than one block"):
        pipeline(folder, "method=toxicity_filter", "filter.threshold=0").filtered()


def test_a_filter_that_only_reads_needs_no_queries(folder):
    small = [value for value in TINY if not value.startswith("queries.")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[
            *small, f"paths.workspace={folder}/workspace", f"paths.run={folder}/run", "method=toxicity_filter",
            "queries=local", "stage=filtered",
        ])  # fmt: skip
        assert Pipeline(cfg).filtered().stage == "filtered"
