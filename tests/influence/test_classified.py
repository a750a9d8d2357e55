"""Scores of a classifier's windows of words, against a loop over tokens."""

import zlib

import numpy as np
import pytest

from ifguide.corpus.offsets import TokenOffsets
from ifguide.corpus.repacking import document_tokens
from ifguide.influence.classified import WindowClassifier, pool_windows, windows, word_spans, words_of, write_documents
from ifguide.influence.store import open_scores


class Judge:
    """A probability that only the text decides, high where it holds an insult."""

    name = "judge"

    def __call__(self, texts):
        return {"toxicity": np.array([probability(text) for text in texts])}


def probability(text):
    return ("idiot" in text) * 0.5 + zlib.crc32(text.encode()) % 1000 / 2500


def slowly(ids, tokenizer, size, pooling):
    """One token after the other, its word found by reading the document up to it."""
    end, found = tokenizer.eos_token_id, []
    text = tokenizer.decode([id for id in ids if id != end])
    words, half = text.split(), size // 2
    assert " ".join(words) == text
    judged = [probability(" ".join(words[max(0, i - half) : i + half + 1])) for i in range(len(words))]
    for n, id in enumerate(ids):
        read = tokenizer.decode(ids[: n + 1])
        word = min(len(read.split()) - (not read[-1].isspace()), len(words) - 1)
        values = [judged[i] for i in range(len(words)) if abs(i - word) <= half]
        found.append(0.0 if id == end else max(values) if pooling == "max" else sum(values) / len(values))
    return found


@pytest.mark.parametrize("size, pooling", [(1, "mean"), (3, "mean"), (5, "max"), (99, "mean")])
def test_scores_are_those_of_a_loop_over_tokens(corpus, tmp_path, size, pooling):
    split, tokenizer = corpus.split("train"), corpus.tokenizer
    scorer = WindowClassifier(classifier=Judge(), window=size, pooling=pooling)
    pieces = scorer.scores(document_tokens(split), TokenOffsets(tokenizer), corpus.end_of_text, Judge())
    write_documents(tmp_path, split.shape, pieces)
    slow = [value for ids in document_tokens(split) for value in slowly(ids.tolist(), tokenizer, size, pooling)]
    expected = np.array(slow).reshape(split.shape)
    expected[:, 0] = 0
    found = open_scores(tmp_path)
    assert found.shape == (1, *split.shape) and np.allclose(found[0], expected, rtol=0, atol=1e-6)
    assert expected.max() > 0.5


def test_the_mean_tells_an_insult_from_its_neighbours_and_the_highest_does_not():
    words = [f"w{n}" for n in range(20)]
    words[10] = "idiot"
    text = " ".join(words)
    toxic = np.array(["idiot" in piece for piece in windows(text, word_spans(text), 5)], np.float64)
    mean, highest = (pool_windows(toxic, 5, pooling) for pooling in ("mean", "max"))
    assert mean.argmax() == 10 and mean[10] == 1 and (np.delete(mean, 10) < 1).all()
    assert mean[8:13].tolist() == [0.6, 0.8, 1.0, 0.8, 0.6] and (highest == 1).sum() == 9
    assert pool_windows(np.array([0.3]), 5, "mean").tolist() == [0.3]


def test_blanks_belong_to_the_next_word_and_those_at_the_end_to_the_last():
    spans = word_spans(" a  bcd ")
    tokens = np.array([[0, 1], [1, 2], [2, 3], [2, 5], [5, 7], [7, 8]])  # " ", "a", " ", "  b", "cd", " "
    assert spans.tolist() == [[1, 2], [4, 7]]
    assert words_of(tokens, spans).tolist() == [0, 0, 1, 1, 1, 1]


def test_a_document_without_words_scores_nothing(corpus):
    end, blank = corpus.end_of_text, corpus.tokenizer.encode(" ", add_special_tokens=False)
    documents = [np.array([end]), np.array([*blank, end]), np.array(corpus.tokenizer.encode("idiot"))]
    scorer = WindowClassifier(classifier=Judge())
    first, second, third = scorer.scores(documents, TokenOffsets(corpus.tokenizer), end, Judge())
    assert first.tolist() == [0] and second.tolist() == [0] * (len(blank) + 1)
    assert np.allclose(third, probability("idiot"))


def test_mistakes_are_named(corpus):
    for options, message in (
        ({"window": 4}, r"^window=4: an odd number"),
        ({"window": 0}, r"^window=0: it is a whole number"),
        ({"pooling": "min"}, r"^pooling=min; known: mean, max"),
    ):
        with pytest.raises(ValueError, match=message):
            WindowClassifier(classifier=Judge(), **options)
    scorer = WindowClassifier(classifier=Judge(), category="insult")
    with pytest.raises(ValueError, match=r"^category=insult: judge has toxicity"):
        list(scorer.scores([np.array([40])], TokenOffsets(corpus.tokenizer), corpus.end_of_text, Judge()))
