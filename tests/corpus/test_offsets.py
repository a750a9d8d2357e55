"""Characters of tokens, against the tokenizer's own offsets and its decoder."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.offsets import TokenOffsets, token_bytes
from ifguide.corpus.tokenizers import token_texts

TEXT = "the cat sat on a mat"
HARD = [
    "🤖", "naïve — ‘quoted’ 🤖🤖\n\ttabs", "e\u0301 is two, é is one",
    "👩‍👩‍👧 family, 🇩🇪 flag", "日本語と漢字", "\ufffd is a character",
    "", " ", "<|endoftext|> spelled out", "\0a",
]  # fmt: skip
TOKENIZER = tiny_tokenizer([TEXT] * 20)
READ = TokenOffsets(TOKENIZER)


def encoded(text):
    return TOKENIZER.backend_tokenizer.encode(text, add_special_tokens=False)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60) | st.sampled_from(HARD))
def test_a_token_has_the_characters_that_its_tokenizer_says(text):
    encoding = encoded(text)
    read, offsets = READ(encoding.ids)
    assert read == text and offsets.shape == (len(encoding.ids), 2)
    assert [tuple(pair) for pair in offsets.tolist()] == encoding.offsets


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
def test_any_tokens_read_as_their_decoder_reads_them(ids):
    """Bytes that are no character, and characters that a cut has lost a part of, among them."""
    text, offsets = READ(ids)
    assert text == TOKENIZER.backend_tokenizer.decode(ids, skip_special_tokens=False)
    assert (offsets[:, 0] < offsets[:, 1]).all() and (np.diff(offsets, axis=0) >= 0).all()
    assert not ids or (offsets[0, 0], offsets[-1, 1]) == (0, len(text))


def test_a_tokens_bytes_are_its_text():
    assert [piece.decode(errors="replace") for piece in token_bytes(TOKENIZER)] == token_texts(TOKENIZER)


def test_a_character_that_is_cut_is_a_replacement_character():
    ids = encoded("a 🤖").ids[:-1]
    text, offsets = READ(ids)
    assert text == "a \ufffd" and offsets[-1].tolist() == [2, 3]


def sentencepiece():
    """A vocabulary that marks words and writes what it does not know byte by byte."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.train_from_iterator([TEXT] * 20, trainers.BpeTrainer(special_tokens=["<unk>", "</s>"], show_progress=False))
    described = json.loads(inner.to_str())
    vocabulary = described["model"]["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    inner = Tokenizer.from_str(json.dumps(described))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")


def wordpiece():
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    inner.train_from_iterator([TEXT] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", eos_token="[SEP]")


@pytest.mark.parametrize("make, text", [(sentencepiece, f"{TEXT} 🤖 é {TEXT}"), (wordpiece, TEXT)])
def test_other_vocabularies(make, text):
    tokenizer = make()
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    read, offsets = TokenOffsets(tokenizer)(ids)
    assert read == tokenizer.backend_tokenizer.decode(ids) == text
    assert offsets[0, 0] == 0 and offsets[-1, 1] == len(text) and (np.diff(offsets, axis=0) >= 0).all()
    cat = text.index(" cat")
    covering = [text[start:end] for start, end in offsets if start >= cat and end <= cat + 4]
    assert "".join(covering) == " cat"
    if "🤖" in text:
        place = text.index("🤖")
        assert (offsets == [place, place + 1]).all(axis=1).sum() == 4  # one token a byte
