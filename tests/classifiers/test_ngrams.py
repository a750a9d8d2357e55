import numpy as np
import pytest
import torch

from ifguide.classifiers.ngrams import MIX, PRIME, NgramClassifier, NgramNetwork, hashed_ngrams, normalise
from ifguide.statistics import roc_auc

TEXTS = ["You IDIOT!!", "", "a https://x.y/z b @somebody", "naïve 🤖 &amp; f*** o'clock", "..", "one"]
WRAP = 1 << 64


def slow_hash(codes, salt):
    value = salt
    for code in codes:
        value = (value * int(PRIME) + code) % WRAP
    value = value * int(MIX) % WRAP
    return value ^ (value >> 32)


def slow_ngrams(text, buckets, characters, words):
    clean = normalise(text)
    letters = [ord(letter) for letter in clean]
    found = [slow_hash(letters[i : i + n], n) for n in characters for i in range(len(letters) - n + 1)]
    hashes = [
        sum(ord(letter) * int(PRIME) ** (place + 1) for place, letter in enumerate(word)) % WRAP
        for word in clean.split()
    ]
    found += [slow_hash(hashes[i : i + n], 100 + n) for n in words for i in range(len(hashes) - n + 1)]
    return sorted(value % buckets for value in found)


@pytest.mark.parametrize("characters, words", [((3, 4), (1, 2)), ((1,), ()), ((), (1, 2, 3)), ((30,), (9,))])
def test_hashed_ngrams_are_those_of_each_text_alone(characters, words):
    with np.errstate(over="raise"):
        values, edges = hashed_ngrams(TEXTS, buckets=1009, characters=characters, words=words)
    assert edges[0] == 0 and edges[-1] == len(values) and len(edges) == len(TEXTS) + 1
    for index, text in enumerate(TEXTS):
        found = sorted(values[edges[index] : edges[index + 1]].tolist())
        assert found == slow_ngrams(text, 1009, characters, words), text


def test_texts_are_normalised():
    assert normalise("RT @user: You &lt;IDIOT&gt;!! http://t.co/x") == " you idiot "
    assert normalise("f**k  o'clock") == " f**k o'clock " and normalise(" .,! ") == ""


def test_a_saved_network_gives_the_same_probabilities(tmp_path):
    torch.manual_seed(0)
    network = NgramNetwork(buckets=97, width=4, characters=[3], words=[1]).eval()
    network.save(tmp_path)
    one, two = (NgramClassifier(n, name="x")(TEXTS)["toxicity"] for n in (network, NgramNetwork.load(tmp_path)))
    assert (one == two).all() and ((one > 0) & (one < 1)).all()
    bias = float(torch.sigmoid(network.head.bias.detach()))
    assert one[1] == one[4] == pytest.approx(bias), "nothing to read"
    alone = [NgramClassifier(network, name="x")([text])["toxicity"][0] for text in TEXTS]
    assert alone == pytest.approx(one, abs=1e-6)


def test_quality_needs_both_classes():
    assert roc_auc(np.array([0.1, 0.9]), np.array([False, True])) == 1
    with pytest.raises(ValueError, match="positive and negative"):
        roc_auc(np.array([0.1, 0.9]), np.array([True, True]))
