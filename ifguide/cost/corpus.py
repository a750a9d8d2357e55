"""How large a corpus is: counted where it was built, else estimated from what its sources say of themselves."""

from pathlib import Path

from ifguide.corpus.blocks import SPLITS, Corpus
from ifguide.corpus.build import CorpusSettings
from ifguide.cost.work import CorpusSize

# Characters of English that a token of a byte-level BPE has, by the size of its vocabulary: what the built-in sample
# and the real text of `data=real_text` have with their tokenizers, and OpenWebText with GPT-2's (4.9 B characters to a
# billion tokens would be 4.9; news and web text have 4.4)
CHARACTERS = {2048: 3.2, 4096: 3.5, 50304: 4.4}


def found_size(folder: Path) -> CorpusSize:
    """That of a corpus that was built."""
    corpus = Corpus(folder)
    facts = corpus.info["facts"]
    blocks = {split: int(facts[split]["blocks"]) for split in SPLITS}
    documents = sum(int(facts[split]["documents"]) for split in SPLITS)
    return CorpusSize(
        blocks, documents, int(corpus.info["block_length"]), corpus.vocabulary, characters_of(corpus.vocabulary),
        "found in the workspace",
    )  # fmt: skip


def estimated_size(settings: CorpusSettings, tokens: float | None = None) -> CorpusSize:
    """That of a corpus that was not built.

    Args:
        settings: of the corpus.
        tokens: of all its splits, where somebody knows.

    Raises:
        ValueError: a source says nothing of its size, and nobody said `tokens`.
    """
    vocabulary = int(getattr(settings.tokenizer, "vocabulary", 2048))
    characters = characters_of(vocabulary)
    total, documents, source = 0.0, 0.0, "plan.tokens"
    for name, one in settings.sources.items():
        size = one.estimate(characters) if hasattr(one, "estimate") else None
        if size is None and tokens is None:
            raise ValueError(
                f"data.sources.{name}: nothing says how large it is; build it (stage=data), or say plan.tokens=…, the "
                "tokens of the whole corpus"
            )
        weight = settings.weights.get(name, 1.0)
        held_out = settings.validation + settings.test
        if size is not None:
            total += size[0] * ((1 - held_out) * weight + held_out)
            documents += size[1] * ((1 - held_out) * weight + held_out)
            source = "estimated from the files and limits of its sources"
    if tokens is not None:
        documents, total, source = documents * tokens / total if total else tokens / 500, tokens, "plan.tokens"
    validation, test = settings.validation, settings.test
    shares = {"train": 1 - validation - test, "validation": validation, "test": test}
    blocks = {split: int(total * share / settings.block_length) for split, share in shares.items()}
    return CorpusSize(blocks, round(documents), settings.block_length, vocabulary, characters, source)


def characters_of(vocabulary: int) -> float:
    """Of a token, by the nearest vocabulary that is known."""
    return CHARACTERS[min(CHARACTERS, key=lambda size: abs(size - vocabulary))]
