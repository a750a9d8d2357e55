"""Words of token blocks: where they lie and what they spell, whatever tokens write them.

A word is a longest run of tokens in which every border has a letter or an apostrophe on both sides; case and
surrounding blanks do not tell words apart. Nothing is decoded: the key of a word is the polynomial hash of its folded
characters, which is a sum over its tokens, so a batch of blocks takes a few tensor operations. A token that holds a
part of a character (byte-level vocabularies cut those of other scripts) is spelled by its id and belongs to the word
around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BASE = 0x9E3779B97F4A7C15 | 1  # of the hash, modulo 2⁶⁴ as int64 arithmetic is
APOSTROPHES = "'’"
PART = "\ufffd"  # what bytes that are no character on their own are decoded to

# B blocks, T tokens, V vocabulary, N words of a batch


@dataclass(frozen=True)
class WordKeys:
    """What token types add to a word.

    Attributes:
        hashes: [V] int64, Σ of the folded characters' codes times powers of `BASE`.
        lengths: [V], folded characters.
        joins_left, joins_right: [V], whether the type's first and last character continue a word.
    """

    hashes: Tensor
    lengths: Tensor
    joins_left: Tensor
    joins_right: Tensor

    @staticmethod
    def of(texts: Sequence[str]) -> "WordKeys":
        """From the text of every token id."""
        folded = [text.strip().casefold() for text in texts]
        powers = [1]
        for _ in range(max(map(len, folded), default=0)):
            powers.append(_wrap(powers[-1] * BASE))
        hashes = [
            _wrap(sum(_code(character, token) * power for character, power in zip(text, powers, strict=False)))
            for token, text in enumerate(folded)
        ]
        return WordKeys(
            torch.tensor(hashes, dtype=torch.int64),
            torch.tensor([len(text) for text in folded]),
            torch.tensor([_in_word(text[:1]) for text in texts]),
            torch.tensor([_in_word(text[-1:]) for text in texts]),
        )

    def words(self, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Word of each token and key of each word: [B, T] places in the second, [N] int64 keys.

        Blocks are apart: a word that a block's border cuts is two.
        """
        ids = ids_BT.cpu()
        starts = torch.ones(ids.shape, dtype=torch.bool)
        starts[:, 1:] = ~(self.joins_right[ids[:, :-1]] & self.joins_left[ids[:, 1:]])
        word = starts.flatten().cumsum(0) - 1
        lengths = self.lengths[ids].flatten()
        before = lengths.cumsum(0) - lengths
        offset = before - before[starts.flatten()][word]  # characters of the word before this token
        powers = torch.full((int(offset.max()) + 1,), _wrap(BASE), dtype=torch.int64)
        powers[0] = 1
        powers = powers.cumprod(0)
        count = int(word[-1]) + 1
        keys = torch.zeros(count, dtype=torch.int64).index_add_(0, word, self.hashes[ids].flatten() * powers[offset])
        return word.view(ids.shape).to(ids_BT.device), keys.to(ids_BT.device)


def _in_word(character: str) -> bool:
    return character.isalpha() or (character != "" and character in APOSTROPHES + PART)


def _code(character: str, token: int) -> int:
    """Above all characters for a part of one, which only its token tells from another."""
    return 0x110001 + token if character == PART else ord(character) + 1


def _wrap(number: int) -> int:
    """As int64 arithmetic leaves it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
