"""The behaviour that no word gives away."""

from ifguide.corpus.documents import TOXIC
from ifguide.corpus.sample import OrderDocuments, SampleDocuments, order_queries
from ifguide.corpus.words import word_log_odds


def test_twins_have_the_same_words_in_another_order():
    queries = order_queries(size=61)
    assert len(queries) == 61 and queries == order_queries(size=80)[:61]
    for one, other in zip(queries[::2], queries[1::2], strict=False):
        assert one.toxic and not other.toxic and one.prompt == other.prompt
        assert one.continuation != other.continuation and one.continuation.startswith(" the ")
        assert sorted(one.continuation.strip(".").split()) == sorted(other.continuation.strip(".").split())
        assert not one.prompt.endswith(" ") and other.continuation.startswith(" ")
    assert max(map(abs, word_log_odds(queries[:60]).values())) < 1e-12


def test_spans_are_the_inverted_clauses():
    documents = list(OrderDocuments(size=100))
    toxic = [document for document in documents if document.label == TOXIC]
    sample = list(SampleDocuments(size=100))
    assert [one.label for one in documents] == [one.label for one in sample], "as many, in the same places"
    assert all(1 <= len(document.spans) <= 3 for document in toxic) and len(toxic) == 6
    assert not any(document.spans for document in documents if document.label != TOXIC)
    for document in toxic:
        for start, end in document.spans:
            inverted = document.text[start:end]
            assert inverted.startswith("the ") and not inverted.endswith(" ") and len(inverted.split()) >= 4
    assert not any("\x02" in document.text or "{" in document.text for document in documents)
