from unittest import mock

import numpy as np
import pytest
import torch

from ifguide.influence import pooling as module
from ifguide.influence.pooling import TypePooling, TypeTable, WordPooling, WordTable, type_sums
from ifguide.influence.word_keys import WordKeys

TEXTS = [" a", "b", " A", "c'", " ", ",", "ab"]
VOCABULARY = len(TEXTS)


@pytest.fixture
def corpus():
    """Token ids and the scores of two behaviours."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, VOCABULARY, (9, 12))
    scores = generator.normal(size=(2, *ids.shape)).astype(np.float32)
    scores[..., 0] = 0
    return ids, scores


def fit(pooling, ids, scores):
    return pooling.fit(scores, lambda rows: ids[rows], TEXTS)[0]


def naive(ids, scores, *, prior, context_weight, reach):
    """One token at a time, from the definition."""
    exist = [(n, t) for n in range(len(ids)) for t in range(1, ids.shape[1])]
    mean = np.mean([scores[place] for place in exist], dtype=np.float64)

    def worth(kind):
        values = [float(scores[place]) for place in exist if ids[place] == kind]
        return (sum(values) + prior * mean) / (len(values) + prior)

    out = np.zeros(scores.shape)
    for n, t in exist:
        others = (j for j in range(ids.shape[1]) if j != t)
        around = sum(np.exp(-abs(j - t) / reach) * worth(ids[n, j]) for j in others) / (2 * reach)
        out[n, t] = worth(ids[n, t]) + context_weight * around
    return out


@pytest.mark.parametrize("context_weight", [0.0, 0.7, 5.0])
def test_pooling_equals_its_definition(corpus, context_weight):
    ids, scores = corpus
    options = {"prior": 2.5, "context_weight": context_weight, "reach": 3.0}
    pooled = fit(TypePooling(**options), ids, scores).scores(torch.from_numpy(ids)).numpy()
    for ours, column in zip(pooled, scores, strict=True):
        assert np.allclose(ours, naive(ids, column, **options), atol=1e-5)


def test_chunks_change_nothing_and_a_table_survives_saving(corpus, tmp_path):
    ids, scores = corpus
    whole = fit(TypePooling(), ids, scores)
    with mock.patch.object(module, "CHUNK_TOKENS", 25):
        assert torch.allclose(fit(TypePooling(), ids, scores).mean_scores, whole.mean_scores)
    whole.save(tmp_path)
    some = torch.from_numpy(ids[:3])
    assert torch.equal(TypeTable.load(tmp_path).scores(some), whole.scores(some))


def test_a_large_prior_makes_all_types_equal(corpus):
    ids, scores = corpus
    table = fit(TypePooling(prior=1e9, context_weight=0), ids, scores)
    assert np.allclose(table.mean_scores, scores[..., 1:].mean((1, 2))[:, None], atol=1e-5)
    assert (table.scores(torch.from_numpy(ids))[..., 0] == 0).all()


def test_first_tokens_of_blocks_have_no_scores_to_count(corpus):
    ids, scores = corpus
    scores[..., 0] = 1e6
    sums, counts = type_sums(scores, lambda rows: ids[rows], VOCABULARY)
    assert counts.sum() == ids[:, 1:].size and np.allclose(sums.sum(1), scores[..., 1:].sum((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("option, value", [("prior", -1), ("context_weight", -1), ("reach", 0)])
def test_settings_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option}={value}"):
        TypePooling(**{option: value})


def written_words(row):
    """Places of the words of one block and what they spell, by reading its text character by character."""
    words = [[0]]
    for t in range(1, len(row)):
        left, right = TEXTS[row[t - 1]][-1], TEXTS[row[t]][0]
        if (left.isalpha() or left == "'") and (right.isalpha() or right == "'"):
            words[-1].append(t)
        else:
            words.append([t])
    return [(places, "".join(TEXTS[row[t]] for t in places).strip().casefold()) for places in words]


def test_words_are_what_the_text_spells(corpus):
    ids, _ = corpus
    word, keys = WordKeys.of(TEXTS).words(torch.from_numpy(ids))
    spelled = [(n, places, text) for n, row in enumerate(ids) for places, text in written_words(row)]
    assert len(keys) == len(spelled) and len({text for *_, text in spelled}) == len(set(keys.tolist()))
    key_of = {}
    for index, (n, places, text) in enumerate(spelled):
        assert (word[n, places] == index).all()
        assert key_of.setdefault(text, int(keys[index])) == int(keys[index])
    both = WordKeys.of([" Sh", "it", " s", "hIT"]).words(torch.tensor([[0, 1], [2, 3]]))[1]
    assert both[0] == both[1], "other tokens, the same word"


def test_parts_of_characters_spell_by_their_token():
    texts = [" d", "\ufffd", "\ufffd", "a", " d\ufffd", "."]
    ids = torch.tensor([[0, 1, 2, 3, 5], [0, 1, 1, 3, 5], [4, 2, 3, 5, 5]])
    word, keys = WordKeys.of(texts).words(ids)
    assert word.tolist() == [[0, 0, 0, 0, 1], [2, 2, 2, 2, 3], [4, 4, 4, 5, 6]], "a cut character is within a word"
    assert keys[0] != keys[2] and keys[1] == keys[3] == keys[5], "other parts, another word"


def test_word_pooling_equals_its_definition(corpus):
    ids, scores = corpus
    types = {"prior": 2.5, "context_weight": 0.7, "reach": 3.0}
    pooling = WordPooling(types=TypePooling(**types), prior=1.5)
    fitted = ids[:6], scores[:, :6]  # the other blocks hold words that these do not
    pooled = fit(pooling, *fitted).scores(torch.from_numpy(ids)).numpy()
    table = fit(pooling.types, *fitted)
    for ours, column, of_type, around in zip(
        pooled, scores, table.mean_scores.numpy(), table.context(torch.from_numpy(ids)).numpy(), strict=True
    ):
        occurrences = {}
        for n in range(6):
            for places, text in written_words(ids[n]):
                if places[0] > 0:
                    pair = column[n, places].sum(), of_type[ids[n, places]].sum()
                    occurrences.setdefault(text, []).append(pair)
        for n, row in enumerate(ids):
            for places, text in written_words(row):
                seen = occurrences.get(text, [])
                mean = np.mean([t for _, t in seen]) if seen else of_type[row[places]].sum()
                worth = (sum(s for s, _ in seen) + 1.5 * mean) / (len(seen) + 1.5)
                wanted = np.where(np.array(places) == 0, 0, worth + around[n, places])
                assert np.allclose(ours[n, places], wanted, atol=1e-5)
    assert len({text for row in ids for _, text in written_words(row)}) > len(fit(pooling, *fitted).keys)


def test_a_table_of_words_survives_chunks_and_saving(corpus, tmp_path):
    ids, scores = corpus
    pooling = WordPooling(types=TypePooling())
    whole = fit(pooling, ids, scores)
    with mock.patch.object(module, "CHUNK_TOKENS", 25):
        parts = fit(pooling, ids, scores)
    assert torch.equal(parts.keys, whole.keys) and torch.allclose(parts.mean_scores, whole.mean_scores)
    whole.save(tmp_path)
    some = torch.from_numpy(ids[:3])
    assert torch.equal(WordTable.load(tmp_path).scores(some), whole.scores(some))
    with pytest.raises(ValueError, match="prior=0"):
        WordPooling(types=TypePooling(), prior=0)
