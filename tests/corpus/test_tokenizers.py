from contextlib import nullcontext

import pytest
from conftest import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import build_corpus
from ifguide.corpus.documents import Document
from ifguide.corpus.filters import WordFilter
from ifguide.corpus.tokenizers import keeps_text, token_texts
from ifguide.stages.filtering import JudgedDocuments

TEXT = "the cat sat on a mat"


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
