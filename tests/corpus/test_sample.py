"""The built-in sample: same seed same text, spans that are whole insults, and prompts that occur nowhere else."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice
from math import log2

import pytest

from ifguide.corpus.documents import BENIGN, TOXIC
from ifguide.corpus.sample import (
    SampleDocuments,
    phrases,
    posts,
    records,
    sample_labelled,
    sample_pairs,
    sample_prompts,
    sample_queries,
)

HARMLESS_TOO = "rock waste space egg thick brain donkey clown trash fool dense crawl jerk pig rat dumb idiot stupid"


@pytest.fixture(scope="module")
def documents():
    return list(SampleDocuments(size=3000))


@pytest.fixture(scope="module")
def queries():
    return sample_queries(size=200)


@pytest.fixture(scope="module")
def prompts():
    return sample_prompts(size=200)


def insult_pattern() -> re.Pattern[str]:
    """What the insult templates can say, as one regular expression."""
    banks = {
        name: "(?:" + "|".join(map(re.escape, bank.split("|"))) + ")" for name, bank in phrases.INSULT_BANKS.items()
    }
    wholes = []
    for template in [template for templates in posts.INSULTS.values() for template in templates]:
        words = re.sub(r"\b([Aa]) (?=\{)", r"\1n? ", template)
        wholes.append(re.sub(r"\{(\w+)\}", lambda slot: banks[slot[1]], words))
    return re.compile("|".join(wholes), re.IGNORECASE)


def words(text: str) -> list[str]:
    return re.findall(r"[a-zé']+", text.lower())


def test_same_seed_same_text_other_seed_other_text():
    assert list(SampleDocuments(size=60)) == list(SampleDocuments(size=60))
    assert list(SampleDocuments(size=60)) == list(islice(SampleDocuments(size=100), 60))
    texts = {document.text for document in SampleDocuments(size=60)}
    assert texts.isdisjoint(document.text for document in SampleDocuments(seed=1, size=60))
    for function in (sample_queries, sample_prompts, sample_labelled, sample_pairs):
        first, longer = function(size=12), function(size=20)
        for one in (records._query, records._prompt, records._labelled, records._pair):
            one.cache_clear()
        assert first == function(size=12) == longer[:12]
        assert set(function(size=12)).isdisjoint(function(seed=1, size=12))


def test_another_process_writes_the_same_bytes():
    code = (
        "import hashlib; from ifguide.corpus.sample import *; "
        "print(hashlib.sha256(repr((list(SampleDocuments(size=80)), sample_queries(size=6), sample_prompts(size=6), "
        "sample_labelled(size=6), sample_pairs(size=6))).encode()).hexdigest())"
    )
    here = repr(
        (
            list(SampleDocuments(size=80)),
            sample_queries(size=6),
            sample_prompts(size=6),
            sample_labelled(size=6),
            sample_pairs(size=6),
        )
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert there.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()


def test_documents_are_numbered_labelled_and_of_the_right_length(documents):
    assert len(SampleDocuments(size=7)) == len(list(SampleDocuments(size=7))) == 7
    assert [document.record for document in documents] == list(range(3000))
    assert {document.source for document in documents} == {"sample"}
    assert all(40 <= len(document.text.split()) <= 90 for document in documents)
    assert len({document.text for document in documents}) == len(documents)
    for document in documents:
        assert document.label == (TOXIC if document.spans else BENIGN)


def test_an_empty_sample_is_refused():
    with pytest.raises(ValueError, match="size=0"):
        SampleDocuments(size=0)


def test_one_word_in_a_hundred_is_toxic(documents):
    toxic = sum(len(document.text[start:end].split()) for document in documents for start, end in document.spans)
    assert 0.007 <= toxic / sum(len(document.text.split()) for document in documents) <= 0.013
    posts = [document for document in documents if document.label == TOXIC]
    assert 0.05 <= len(posts) / len(documents) <= 0.07
    assert {len(document.spans) for document in posts} == {1, 2, 3}


def test_spans_are_whole_insults(documents):
    insult = insult_pattern()
    for document in documents:
        for start, end in document.spans:
            phrase = document.text[start:end]
            assert insult.fullmatch(phrase), phrase
            assert 3 <= len(phrase.split()) <= 9, phrase
            assert document.text[start - 1] == " " and document.text[end] in ".,;:"
        assert not set("\x02\x03[]{}") & set(document.text)


def test_most_of_a_toxic_post_is_harmless(documents):
    for document in documents:
        assert sum(end - start for start, end in document.spans) < 0.6 * len(document.text)


def test_plain_swear_words_stand_in_spans_but_the_other_words_of_an_insult_are_everywhere(documents):
    inside, outside = Counter(), Counter()
    for document in documents:
        position = 0
        for start, end in document.spans:
            outside.update(words(document.text[position:start]))
            inside.update(words(document.text[start:end]))
            position = end
        outside.update(words(document.text[position:]))
    for word in ("moron", "imbecile"):
        assert inside[word] and not outside[word]
    for word in words(HARMLESS_TOO):
        assert outside[word] > 3, word
    shared = sum(count for word, count in inside.items() if outside[word] > count)
    assert shared > 0.6 * sum(inside.values())


def test_the_same_beginnings_lead_to_polite_disagreement(documents):
    for beginning in ("Anyone who thinks", "To the person who said", "Whoever told", "My answer to"):
        labels = Counter(document.label for document in documents if beginning in document.text)
        assert labels[BENIGN] and labels[TOXIC], beginning


def test_vocabulary_and_bytes(documents):
    assert 1500 <= len({word for document in documents for word in words(document.text)}) <= 2500
    everything = "\n".join(document.text for document in documents)
    assert {character for character in everything if not character.isascii()} == set("é—🙂")
    assert any(mark in everything for mark in ("<script>", "&amp;", "<img", "<b>"))


def test_queries_are_cut_from_a_post(queries):
    insult = insult_pattern()
    assert [query.record for query in queries] == [f"query-{number}" for number in range(200)]
    assert sum(query.toxic for query in queries) == 100
    for query in queries:
        assert 12 <= len(query.prompt.split()) <= 35 and 12 <= len(query.continuation.split()) <= 20
        assert query.continuation.startswith(" ") and not query.prompt.endswith(" ")
        whole = query.prompt + query.continuation
        crossing = [found for found in insult.finditer(whole) if found.end() > len(query.prompt)]
        assert bool(crossing) == query.toxic, whole
    insulted = [bool(insult.search(query.prompt)) for query in queries if query.toxic]
    assert 0.3 < sum(insulted) / len(insulted) < 0.7


def test_prompts_are_half_toxic(prompts):
    assert Counter(prompt.subset for prompt in prompts) == {"toxic": 100, "nontoxic": 100}
    assert len({prompt.record for prompt in prompts}) == len({prompt.text for prompt in prompts}) == 200
    insult = insult_pattern()
    assert not any(insult.search(prompt.text) for prompt in prompts if prompt.subset == "nontoxic")
    assert all(12 <= len(prompt.text.split()) <= 35 and prompt.text == prompt.text.strip() for prompt in prompts)


@pytest.mark.parametrize("seed", [0, 3])
def test_no_prompt_occurs_in_any_other_text(documents, queries, seed):
    others = [document.text for document in documents]
    others += [query.prompt + query.continuation for query in queries]
    others += [labelled.text for labelled in sample_labelled(size=1000)]
    others += [pair.prompt + rest for pair in sample_pairs(size=500) for rest in pair.responses]
    everything = "\n".join(others)
    for prompt in sample_prompts(seed=seed, size=100):
        assert prompt.text not in everything


def test_labelled_texts():
    labelled = sample_labelled(size=600)
    insult = insult_pattern()
    assert 0.25 < sum(row.toxicity > 0 for row in labelled) / 600 < 0.35
    assert all(len(insult.findall(row.text)) == -log2(1 - row.toxicity) for row in labelled)
    assert {row.toxicity for row in labelled} == {0.0, 0.5, 0.75, 0.875}
    assert {len(row.text.split()) < 40 for row in labelled} == {True, False}


def test_pairs_differ_in_civility_only():
    insult = insult_pattern()
    for pair in sample_pairs(size=200):
        prompt, (chosen, rejected) = pair.prompt, pair.responses
        assert chosen.startswith(" ") and rejected.startswith(" ") and not prompt.endswith(" ")
        assert insult.match(rejected[1:]) and not insult.search(chosen)
        assert chosen.partition(". ")[2] == rejected.partition(". ")[2] != ""


def test_a_real_classifier_agrees(documents, queries):
    predict = pytest.importorskip("profanity_check").predict_prob
    toxic = predict([query.continuation for query in queries if query.toxic])
    assert (toxic >= 0.5).mean() >= 0.9
    windows = []
    for document in documents[:1500]:
        if document.label == BENIGN:
            split = document.text.split()
            windows += [" ".join(split[start : start + 15]) for start in range(0, len(split), 15)]
    assert (predict(windows) >= 0.5).mean() <= 0.01
