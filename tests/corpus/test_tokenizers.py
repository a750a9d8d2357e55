import json
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import build_corpus
from ifguide.corpus.documents import Document
from ifguide.corpus.filters import WordFilter
from ifguide.corpus.tokenizers import TokenizerSettings, keeps_text, make_tokenizer, open_tokenizer, token_texts
from ifguide.decoding.generation import decode_continuations
from ifguide.stages.filtering import JudgedDocuments
from ifguide.training.auxiliary import tokenizer_of

TEXT = "the cat sat on a mat"
LONG = " ".join([TEXT] * 9) + " ."


def test_texts_of_tokens_keep_the_space_that_some_tokenizers_drop_at_the_beginning():
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>", "</s>"], show_progress=False)
    inner.train_from_iterator([TEXT] * 20, trainer)
    for tokenizer in (PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>"), tiny_tokenizer([TEXT] * 20)):
        texts = token_texts(tokenizer)
        ids = tokenizer.backend_tokenizer.encode(f"a {TEXT}", add_special_tokens=False).ids
        assert "".join(texts[token] for token in ids).lstrip() == f"a {TEXT}" and " cat" in texts
        assert texts[tokenizer.eos_token_id] == tokenizer.eos_token
        assert token_texts(tokenizer, skip_special_tokens=True)[tokenizer.eos_token_id] == ""


@pytest.mark.parametrize("keeps", [True, False])
def test_a_tokenizer_that_does_not_keep_texts_is_known(keeps, tmp_path):
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC() if keeps else normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([TEXT], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    for text in ("Ann's  Cafe\u0301 🤖", "\tthe cat\n"):
        ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert keeps_text(tokenizer, text, ids) == (keeps or text.islower())
    documents = [Document(f"{'A' if record % 2 else 'a'} cat {record}", "s", record) for record in range(80)]
    build_corpus(
        tmp_path, sources={"s": documents}, tokenizer=lambda texts: tokenizer, block_length=8, validation=0, test=0
    )
    assert Corpus(tmp_path).altered_share == (0 if keeps else 0.5)
    stage = JudgedDocuments(data=None, filter=WordFilter(), trainer=None)
    with (
        nullcontext() if keeps else pytest.raises(ValueError, match=r"^filter: .*data\.tokenizer.* alters 50% of them")
    ):
        stage.check_corpus(Corpus(tmp_path))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tokenizer's folder without and with limits and tidying in its files."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name in ("plain", "limited"):
        tiny_tokenizer([TEXT] * 20).save_pretrained(folder / name)
        tiny_model().config.save_pretrained(folder / name)
    limited = Tokenizer.from_file(str(folder / "limited/tokenizer.json"))
    limited.enable_truncation(16)
    limited.enable_padding(length=24, pad_id=0, pad_token="<|endoftext|>")
    limited.save(str(folder / "limited/tokenizer.json"))
    config = folder / "limited/tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {
        "clean_up_tokenization_spaces": True,
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
    }))  # fmt: skip
    return folder


def test_the_folder_has_limits_that_would_matter(saved):
    tokenizer = AutoTokenizer.from_pretrained(saved / "limited")
    assert len(tokenizer.backend_tokenizer.encode(LONG).ids) != len(tiny_tokenizer([TEXT] * 20).encode(LONG))
    assert tokenizer.decode(tokenizer.encode(" it .")) != " it ."


@pytest.mark.parametrize("suffix", ["", "/tokenizer.json"])
def test_limits_that_were_saved_with_a_tokenizer_are_off_wherever_one_is_opened(saved, tmp_path, suffix):
    plain, limited = (f"{saved}/{name}{suffix}" for name in ("plain", "limited"))
    expected = make_tokenizer((), path=plain).backend_tokenizer.encode(LONG).ids
    assert len(expected) > 24
    opened = [make_tokenizer((), path=limited), open_tokenizer(limited)]
    opened += [] if suffix else [tokenizer_of(limited, None)]
    opened[0].save_pretrained(tmp_path)
    for tokenizer in (*opened, open_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer.backend_tokenizer.encode(LONG).ids == expected
        assert len(tokenizer.backend_tokenizer.encode_batch(["a", LONG])[0].ids) == 1
    for tokenizer in opened:
        ids = np.array(tokenizer.backend_tokenizer.encode("it . is n't").ids)
        assert tokenizer.decode(ids) == "it . is n't" == decode_continuations([[]], ids[None, None], tokenizer)[0][0]


def test_a_corpus_is_the_same_with_and_without_such_limits(saved, tmp_path):
    documents = [Document(f"{n} {LONG}", "tiny", n) for n in range(20)]
    tokens = []
    for name in ("plain", "limited"):
        (tmp_path / name).mkdir()
        settings = TokenizerSettings(path=f"{saved}/{name}/tokenizer.json", end_of_text="<|endoftext|>")
        build_corpus(tmp_path / name, sources={"tiny": documents}, tokenizer=settings, block_length=16,
                     validation=0.2, test=0)  # fmt: skip
        tokens.append(Corpus(tmp_path / name).split("train").tokens(slice(None)))
    assert np.array_equal(*tokens) and tokens[0].size > 24 * 16


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80) | st.sampled_from(["<|endoftext|> .", " a  b\r\n", "n't do .", "\0", "é\u0301"]))
def test_any_document_round_trips(text):
    tokenizer = tiny_tokenizer([TEXT] * 20)
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.backend_tokenizer.decode(ids) == text == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_damaged_tokenizer_is_one_line_even_where_its_library_panics(tmp_path):
    """It ends with what is no Exception where merges are shorter than the prefix that they should have."""
    tiny_tokenizer(["a text to learn from"]).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["continuing_subword_prefix"] = "#" * 99
    file.write_text(json.dumps(content), encoding="utf-8")
    for path in (tmp_path, file):
        with pytest.raises(ValueError, match=rf"^path={path} cannot be loaded: range end index \d+ out of range"):
            make_tokenizer([], path=str(path))
