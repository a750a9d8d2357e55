from conftest import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.tokenizers import token_texts

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
