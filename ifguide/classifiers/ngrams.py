"""A small classifier of hashed n-grams of characters and words (after fastText: Joulin et al., 2017)."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ifguide.classifiers.base import TOXICITY
from ifguide.workspace import read_json

WEIGHTS, SHAPE = "classifier.safetensors", "classifier.json"
TEXTS = 4096  # classified at a time
PRIME, MIX = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)
SPACE = ord(" ")
SCALE = 10.0  # √n of a text of one line, so that weights start at a fitting size
NOISE = re.compile(r"https?://\S+|www\.\S+|@\w+|\brt\b")  # what posts carry and other texts do not
SEPARATOR = re.compile(r"[^\w'*]+")


class NgramNetwork(nn.Module):
    """Logit of a text: w · (sum of the vectors of its n n-grams) / √n + b.

    Between a sum, which grows with a text, and a mean, in which one word is lost in a long text.

    Args:
        buckets: number of vectors; n-grams find theirs by hash, and may share it.
        width: of a vector.
        characters: lengths of the character n-grams; the edges of words are characters.
        words: lengths of the word n-grams.
    """

    def __init__(self, *, buckets: int, width: int, characters: Sequence[int], words: Sequence[int]) -> None:
        super().__init__()
        self.buckets, self.characters, self.words = buckets, tuple(characters), tuple(words)
        self.shape = {"buckets": buckets, "width": width, "characters": list(characters), "words": list(words)}
        self.vectors = nn.EmbeddingBag(buckets, width, mode="mean")
        nn.init.normal_(self.vectors.weight, std=1 / width)
        self.head = nn.Linear(width, 1)

    def forward(self, features: Tensor, starts: Tensor) -> Tensor:
        """[n] logits of n texts from all their features in one row, and where each text's begin."""
        counts = torch.diff(starts, append=starts.new_tensor([len(features)]))
        logits: Tensor = self.head(self.vectors(features, starts) * counts.sqrt()[:, None] / SCALE).squeeze(-1)
        return logits

    def features(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return hashed_ngrams(texts, buckets=self.buckets, characters=self.characters, words=self.words)

    def save(self, directory: Path) -> None:
        save_file(self.state_dict(), directory / WEIGHTS)
        (directory / SHAPE).write_text(json.dumps(self.shape), encoding="utf-8")

    @staticmethod
    def load(directory: Path) -> "NgramNetwork":
        network = NgramNetwork(**read_json(directory / SHAPE))
        network.load_state_dict(load_file(directory / WEIGHTS))
        return network.eval()


class NgramClassifier:
    """Probability of `toxicity` by a trained network.

    Args:
        network: in evaluation mode, on the CPU.
        name: for people.
    """

    def __init__(self, network: NgramNetwork, *, name: str) -> None:
        self._network, self.name = network, name

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        scores = np.zeros(len(texts))
        for first in range(0, len(texts), TEXTS):
            features, edges = self._network.features(texts[first : first + TEXTS])
            logits = self._network(torch.from_numpy(features), torch.from_numpy(edges[:-1]))
            scores[first : first + TEXTS] = logits.double().sigmoid().numpy()
        return {TOXICITY: scores}


def normalise(text: str) -> str:
    """Lower case, one space around every word, without links, @names and punctuation other than ' and *."""
    words = SEPARATOR.sub(" ", NOISE.sub(" ", html.unescape(text).lower())).strip()
    return f" {words} " if words else ""


def hashed_ngrams(
    texts: Sequence[str], *, buckets: int, characters: Sequence[int], words: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Buckets of all n-grams of normalised texts, all texts at once.

    Returns:
        the buckets of all texts in one row, and [n + 1] edges: text i has buckets[edges[i] : edges[i + 1]].
    """
    clean = [normalise(text) for text in texts]
    codes = np.frombuffer("".join(clean).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in clean])
    found = [_windows(codes, owner, order, salt=order) for order in characters]
    if codes.size:
        starts = np.flatnonzero((codes[1:] != SPACE) & (codes[:-1] == SPACE)) + 1  # every text starts with a space
        place = np.arange(codes.size) - np.repeat(np.r_[0, starts], np.diff(np.r_[0, starts, codes.size]))
        powers = np.cumprod(np.full(int(place.max()) + 1, PRIME))
        letters = np.where(codes == SPACE, np.uint64(0), codes * powers[place])
        hashes = np.add.reduceat(letters, starts) if starts.size else letters[:0]
        found += [_windows(hashes, owner[starts], order, salt=100 + order) for order in words]
    values, owners = (np.concatenate(parts) for parts in zip(*found, strict=True))
    edges = np.r_[0, np.cumsum(np.bincount(owners, minlength=len(texts)))]
    return (values[np.argsort(owners, kind="stable")] % np.uint64(buckets)).astype(np.int64), edges


def _windows(
    codes: NDArray[np.uint64], owner: NDArray[np.int64], order: int, *, salt: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash and text of every window of `order` codes that lies in one text."""
    count = max(codes.size - order + 1, 0)
    hashes = np.full(count, salt, dtype=np.uint64)
    for shift in range(order):
        hashes = hashes * PRIME + codes[shift : shift + count]
    inside = owner[:count] == owner[order - 1 : order - 1 + count]
    hashes = hashes[inside] * MIX
    return hashes ^ (hashes >> np.uint64(32)), owner[:count][inside]
