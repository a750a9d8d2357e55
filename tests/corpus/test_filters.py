from itertools import pairwise

import numpy as np
import pytest

from ifguide.classifiers import ReadyClassifier
from ifguide.corpus.documents import TOXIC, Query
from ifguide.corpus.filters import (
    ClassifierFilter,
    InfluenceFilter,
    WordFilter,
    drop_highest,
    filter_facts,
    windows,
)
from ifguide.corpus.sample import SampleDocuments, sample_queries

SAMPLE = list(SampleDocuments(size=300))
IS_TOXIC = np.array([document.label == TOXIC for document in SAMPLE])


class Counts(ReadyClassifier):
    """A classifier, loaded or not: probability = the share of a text's words that are bad."""

    name = "counts"

    def load(self, folder=None, device="cpu"):
        return self

    def __init__(self):
        self.calls = []

    def __call__(self, texts):
        self.calls.append(len(texts))
        return {"toxicity": np.array([(t.split().count("bad") / max(len(t.split()), 1)) for t in texts], float)}


def texts(documents=SAMPLE):
    return (document.text for document in documents)


def test_words_learned_from_queries_find_toxic_documents():
    queries = [sample_queries(size=1000)]
    for at_least, precision, recall in ((1, 0.5, 1.0), (2, 0.9, 0.9)):
        chosen = WordFilter(at_least=at_least)
        assert chosen.uses_queries
        dropped = chosen.drop(chosen.scores(texts(), queries))
        assert IS_TOXIC[dropped].mean() >= precision and dropped[IS_TOXIC].mean() >= recall


def test_words_of_a_file_need_no_queries(tmp_path):
    (tmp_path / "words.txt").write_text("idiot\nmoron\n")
    chosen = WordFilter(files=str(tmp_path / "words.txt"))
    scores = chosen.scores(["An idiot, a MORON.", "idiotic", "no"], [])
    assert not chosen.uses_queries and scores.tolist() == [[2, 0, 0]] and chosen.drop(scores).tolist() == [1, 0, 0]


def test_a_classifier_finds_toxic_documents():
    pytest.importorskip("profanity_check")
    from ifguide.classifiers import ProfanityCheck

    scores = ClassifierFilter(classifier=ProfanityCheck()).scores(texts(), [], ProfanityCheck().load())
    for rule in ({"threshold": 0.7, "share": None}, {"threshold": None, "share": 0.06}):
        dropped = ClassifierFilter(classifier=ProfanityCheck(), **rule).drop(scores)
        assert IS_TOXIC[dropped].mean() >= 0.8 and dropped[IS_TOXIC].mean() >= 0.9


def test_a_document_is_as_toxic_as_its_worst_window():
    long = " ".join(["good"] * 50 + ["bad"] * 4 + ["good"] * 50)
    classifier = Counts()
    whole = ClassifierFilter(classifier=classifier, window=None).scores([long, "bad good", ""], [], classifier)
    parts = ClassifierFilter(classifier=classifier, window=4).scores([long, "bad good", ""], [], classifier)
    assert whole[0] == pytest.approx([4 / 104, 0.5, 0]) and parts[0] == pytest.approx([1, 0.5, 0])
    many = ClassifierFilter(classifier=classifier).scores(
        ("bad" if i % 7 else "good" for i in range(2500)), [], classifier
    )
    assert (many[0] == [i % 7 > 0 for i in range(2500)]).all() and max(classifier.calls) <= 1000
    assert ClassifierFilter(classifier=classifier).scores([], [], classifier).shape == (1, 0)
    with pytest.raises(ValueError, match="counts has toxicity"):
        ClassifierFilter(classifier=classifier, category="threat").scores(["a"], [], classifier)


@pytest.mark.parametrize("count", [1, 5, 6, 7, 11, 12, 40])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_windows_hold_every_word_and_end_with_the_text(count, size):
    words = [f"w{i}" for i in range(count)]
    found = windows(" ".join(words), size)
    assert {word for window in found for word in window.split()} == set(words)
    assert all(len(window.split()) == min(size, count) for window in found) and len(found) == len(set(found))
    assert found[-1].split()[-1] == words[-1]
    for first, second in pairwise(words):
        if size >= 5:
            assert any(f"{first} {second}" in window for window in found), "neighbours meet in a window"


def test_dropping_the_highest():
    scores = np.array([0.1, 0.9, 0.5, 0.9, 0.5])
    assert drop_highest(scores, threshold=0.5).tolist() == [0, 1, 1, 1, 1]
    assert drop_highest(scores, share=0.6).tolist() == [0, 1, 1, 1, 0]  # ties by index
    assert not drop_highest(scores, share=0.0).any()
    with pytest.raises(ValueError, match="not finite"):
        drop_highest(np.array([np.nan, 1]), share=0.5)


def test_influence_drops_what_any_behaviour_drops():
    scores = np.array([[3.0, 2, 1, 0], [0, 0, 0, 9]])
    assert InfluenceFilter(share=0.25).drop(scores).tolist() == [1, 0, 0, 1]
    assert InfluenceFilter(share=None, threshold=2).drop(scores).tolist() == [1, 1, 0, 1]


def test_facts_say_what_goes():
    dropped = np.array([True, True, False, False, True])
    facts = filter_facts(dropped, np.array([10, 20, 30, 40, 5]), np.array([1, 0, 1, 0, -1], np.int8))
    assert facts["all"] == {
        "documents": 5, "documents_dropped": 3, "documents_dropped_share": 0.6,
        "tokens": 105, "tokens_dropped": 35, "tokens_dropped_share": 1 / 3, "recall": 0.5, "precision": 0.5,
    }  # fmt: skip
    assert facts["toxic"]["tokens_dropped"] == 10 and facts["benign"]["documents_dropped"] == 1
    unlabelled = filter_facts(dropped, np.ones(5, int), np.full(5, -1, np.int8))
    assert set(unlabelled) == {"all"} and "precision" not in unlabelled["all"]


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: WordFilter(at_least=0), r"^at_least=0"),
        (lambda: WordFilter(log_odds=0), r"^log_odds=0"),
        (lambda: WordFilter(files="/nowhere/*.txt"), "no file matches"),
        (lambda: ClassifierFilter(classifier=Counts(), share=0.1), "exactly one"),
        (lambda: ClassifierFilter(classifier=Counts(), threshold=None), "exactly one"),
        (lambda: ClassifierFilter(classifier=Counts(), threshold=1.5), r"^threshold=1\.5"),
        (lambda: ClassifierFilter(classifier=Counts(), window=0), r"^window=0"),
        (lambda: InfluenceFilter(share=1.0), r"^share=1\.0"),
        (lambda: WordFilter().scores([], [[Query("", " a", True, "r")]]), "no word of the 1 queries"),
    ],
)
def test_arguments_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
