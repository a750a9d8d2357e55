"""Tokenizers: from the hub, from a local file or folder, or a byte-level BPE trained on the corpus."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast

from ifguide.hub import check_hub
from ifguide.opening import loading

END_OF_TEXT = "<|endoftext|>"
FEWEST_TOKENS = 257  # the bytes, and the end-of-text token


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """Makes the tokenizer of a corpus from its texts; see `make_tokenizer`.

    Raises:
        ValueError: no such file, or a vocabulary smaller than the 256 bytes and the end-of-text token.
    """

    path: str | None = None
    vocabulary: int = 2048
    end_of_text: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            _check_path(self.path)
        else:
            _check_vocabulary(self.vocabulary)

    def __call__(self, texts: Iterable[str]) -> PreTrainedTokenizerFast:
        return make_tokenizer(texts, path=self.path, vocabulary=self.vocabulary, end_of_text=self.end_of_text)


def make_tokenizer(
    texts: Iterable[str], *, path: str | None = None, vocabulary: int = 2048, end_of_text: str | None = None
) -> PreTrainedTokenizerFast:
    """Load a tokenizer, or train a byte-level BPE on `texts`.

    Args:
        texts: the corpus; only read when there is no `path`.
        path: a `tokenizer.json`, a folder that holds one, or a hub name.
        vocabulary: size of a trained tokenizer.
        end_of_text: the token between documents; default: the tokenizer's own end-of-sequence token.

    Raises:
        ValueError: no such file, no tokenizer in the folder, or one without an end-of-text token.
    """
    if path is None:
        tokenizer = train_byte_level_bpe(texts, vocabulary)
    else:
        _check_path(path)
        check_hub(path, "path")
        with loading(f"path={path}"):
            tokenizer = open_tokenizer(path)
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):  # what is made of a folder without one
        raise ValueError(f"path={path}: it holds no tokenizer; put its tokenizer.json beside its config.json")
    token = end_of_text or tokenizer.eos_token or END_OF_TEXT
    if token not in tokenizer.get_vocab():
        raise ValueError(f"end_of_text={token}: the tokenizer has no such token; name the one between its documents")
    tokenizer.eos_token = token
    return tokenizer


def open_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a `tokenizer.json`, a folder or a hub name, as all but classifiers use it."""
    if str(path).endswith(".json"):
        return faithful(PreTrainedTokenizerFast(tokenizer_file=str(path)))
    return faithful(AutoTokenizer.from_pretrained(path, use_fast=True))  # type: ignore[arg-type]


def faithful(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, made to write texts whole and as they are, whatever limits and tidying were saved with it."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    for key in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):
        tokenizer.init_kwargs.pop(key, None)  # the same limits, which it would save
    tokenizer.clean_up_tokenization_spaces = False
    backend.encode_special_tokens = True  # a document that spells out a special token must not inject one
    return tokenizer


def _check_path(path: str) -> None:
    """Raise ValueError where what looks like a file or folder is none."""
    is_file = path.endswith(".json")
    if (is_file and not Path(path).is_file()) or (path.startswith((".", "/", "~")) and not Path(path).exists()):
        raise ValueError(f"path={path}: no such file or folder")


def _check_vocabulary(vocabulary: int) -> None:
    if vocabulary < FEWEST_TOKENS:
        raise ValueError(f"vocabulary={vocabulary}: a byte-level BPE needs at least {FEWEST_TOKENS} tokens")


def train_byte_level_bpe(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE; any text round-trips through it.

    Raises:
        ValueError: a vocabulary smaller than the 256 bytes and the end-of-text token.
    """
    _check_vocabulary(vocabulary)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return faithful(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT))


def beginning_of_text(tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig | None = None) -> int:
    """The token that a text begins after: the tokenizer's own beginning of a text, or else its end-of-text token.

    Args:
        tokenizer: as `make_tokenizer` leaves it.
        config: of the model that reads. A model trained from scratch on a corpus of ours has only ever seen texts after
            the end of another, whatever its tokenizer has; its configuration says that it begins with that token.
    """
    own, end = tokenizer.bos_token_id, int(tokenizer.eos_token_id)
    return end if own is None or getattr(config, "bos_token_id", own) == end else int(own)


def last_tokens(first: int, ids: Sequence[int], max_length: int | None) -> list[int]:
    """What a text begins after, and its tokens; of a longer text the last ones, so that all are `max_length` (at least
    1) together."""
    return [first, *ids[0 if max_length is None else max(0, len(ids) - max_length + 1) :]]


def keeps_text(tokenizer: PreTrainedTokenizerFast, text: str, ids: Sequence[int]) -> bool:
    """Whether a text can be read back from its tokens, but for how blanks and characters of several code points are
    written; a tokenizer that drops case, accents or unknown characters does not keep it."""
    decoded = tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=True)
    return decoded == text or _plain(decoded) == _plain(text)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """One more than the largest id that the tokenizer can produce."""
    return max(tokenizer.get_vocab().values()) + 1


def token_texts(tokenizer: PreTrainedTokenizerFast, *, skip_special_tokens: bool = False) -> list[str]:
    """Text of every token id within a text; bytes that are no character on their own become the replacement character.

    Each is decoded behind another token, because some tokenizers drop the space that a text begins with.
    """
    before = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids[-1:]

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens, clean_up_tokenization_spaces=False))

    start = len(text(before))
    return [text([*before, token])[start:] for token in range(vocabulary_size(tokenizer))]


def encode_within(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Token ids of each text as it is written within a text, without the mark that some tokenizers begin a text with.

    Each is encoded behind another character, and cut off there; where both become one token, behind the next character.

    Raises:
        ValueError: a text that becomes one token with each of them.
    """
    found: dict[str, list[int]] = {}
    for before in ("a", ".", "\n", "0"):
        left = [text for text in dict.fromkeys(texts) if text not in found]
        encodings = tokenizer.backend_tokenizer.encode_batch([before + text for text in left], add_special_tokens=False)
        for text, encoding in zip(left, encodings, strict=True):
            if not any(start < 1 < end for start, end in encoding.offsets):
                found[text] = [id for id, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if start >= 1]
    if left := [text for text in texts if text not in found]:
        raise ValueError(f"a tokenizer cannot write {left[0]!r} within a text; use a model with another one")
    return [found[text] for text in texts]


def check_same_tokenizer(pretrained: str | None, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise ValueError where a pretrained model was trained with another tokenizer than the corpus's.

    A model folder without a tokenizer is taken at its word; its vocabulary size is checked elsewhere.
    """
    if pretrained is None or (Path(pretrained).is_dir() and not (Path(pretrained) / "tokenizer.json").is_file()):
        return
    with loading(f"pretrained={pretrained}: its tokenizer"):
        theirs = open_tokenizer(pretrained).get_vocab()
    ours = tokenizer.get_vocab()
    if differing := {token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token)}:
        raise ValueError(
            f"pretrained={pretrained}: the model has another tokenizer than the corpus ({len(differing)} tokens "
            "differ); set data.tokenizer.path to that model"
        )
