"""Token ids → their text, and which characters of it each token holds, for tokens that are parts of characters too.

Offsets are those of Python's `str`: they count Unicode code points, so an emoji is one, and a letter with a combining
accent two.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.tokenizers import token_texts, vocabulary_size


class TokenOffsets:
    """Reads the text of some tokens, and the characters of each.

    Args:
        tokenizer: of the tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._bytes = token_bytes(tokenizer)
        # some tokenizers write a blank before the first word of a text, and drop it when they decode
        ids = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids
        written, read = b"".join(self._bytes[id] for id in ids).decode(), tokenizer.backend_tokenizer.decode(ids)
        self._drops_blank = written == f" {read}"

    def __call__(self, ids: Sequence[int] | NDArray[np.int64]) -> tuple[str, NDArray[np.int64]]:
        """The text, and [tokens, 2] half-open ranges of its characters.

        A token that holds a part of a character has the whole character, as its neighbours have it too. Bytes that are
        no character become the replacement character.
        """
        pieces = [self._bytes[id] for id in ids]
        text, first_byte = _characters(b"".join(pieces))
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        starts = ends - [len(piece) for piece in pieces]
        # the character that holds the first byte, and the one after that of the last
        offsets = np.stack(
            [np.searchsorted(first_byte, starts, side="right") - 1, np.searchsorted(first_byte, ends, side="left")],
            axis=1,
        )
        offsets[:, 0] = np.where(starts == ends, offsets[:, 1], offsets[:, 0])
        if self._drops_blank and text.startswith(" "):
            return text[1:], np.maximum(offsets - 1, 0)
        return text, offsets


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> list[bytes]:
    """UTF-8 bytes of every token id within a text; those of several tokens together are their text's."""
    backend = tokenizer.backend_tokenizer
    rule = b"" if backend.decoder is None else backend.decoder.__getstate__()
    tokens = [backend.id_to_token(id) or "" for id in range(vocabulary_size(tokenizer))]
    if b'"ByteLevel"' in rule:
        known = byte_of_character()
        return [
            bytes(known[c] for c in token) if known.keys() >= set(token) else token.encode()  # as its decoder does
            for token in tokens
        ]
    single = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)} if b'"ByteFallback"' in rule else {}
    texts = token_texts(tokenizer)
    return [single.get(token, text.encode()) for token, text in zip(tokens, texts, strict=True)]


def byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level vocabularies: a printable character for every byte (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    found = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
    assert found.keys() == set(ByteLevel.alphabet())
    return found


def _characters(data: bytes) -> tuple[str, NDArray[np.int64]]:
    """Text of some bytes, and where in them each character begins."""
    text, starts, place = "", [np.zeros(0, np.int64)], 0
    while place < len(data):
        try:
            good, bad = data[place:].decode(), 0
        except UnicodeDecodeError as error:
            good, bad = data[place : place + error.start].decode(), error.end - error.start
        size = len(good.encode())
        values = np.frombuffer(data, np.uint8, size, place)
        starts.append(place + np.flatnonzero((values & 0xC0) != 0x80))
        text, place = text + good, place + size
        if bad:
            starts.append(np.array([place]))
            text, place = text + "\ufffd", place + bad
    return text, np.concatenate(starts)
