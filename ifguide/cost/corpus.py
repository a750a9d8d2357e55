"""How large a corpus is: counted where it was built, else estimated from what its sources say of themselves."""

from pathlib import Path

from ifguide.checks import argument
from ifguide.corpus.blocks import SPLITS, Corpus
from ifguide.corpus.build import CorpusSettings
from ifguide.cost.work import CorpusSize

# Characters of English that a token of a byte-level BPE has, by the size of its vocabulary: what the built-in sample
# has with its tokenizer, the real text of `data=real_text`, and web text with one of fifty thousand tokens.
CHARACTERS = {400: 2.0, 2048: 4.06, 4096: 3.5, 50304: 4.4}
TOKENS_PER_DOCUMENT = 500  # where nobody knows


def found_size(folder: Path) -> CorpusSize:
    """That of a corpus that was built."""
    corpus = Corpus(folder)
    facts = corpus.info["facts"]
    blocks = {split: int(facts[split]["blocks"]) for split in SPLITS}
    documents = sum(int(facts[split]["documents"]) for split in SPLITS)
    return CorpusSize(
        blocks, documents, int(corpus.info["block_length"]), corpus.vocabulary, characters_of(corpus.vocabulary),
        "found in the workspace", any("annotated_share" in facts[split] for split in SPLITS),
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
    shares = {"validation": settings.validation, "test": settings.test}
    shares = {"train": 1 - sum(shares.values()), **shares}
    counts, documents, read = dict.fromkeys(shares, 0.0), 0.0, 0.0
    for name, one in settings.sources.items():
        with argument(f"data.sources.{name}"):
            size = one.estimate(characters) if hasattr(one, "estimate") else None
        if size is None and tokens is None:
            raise ValueError(
                f"data.sources.{name}: nothing says how large it is; build it (stage=data), or say plan.tokens=…, the "
                "tokens of the whole corpus"
            )
        if size is None:
            continue
        read += size[0]
        for split, share in shares.items():
            times = settings.weights.get(name, 1.0) if split == "train" else 1.0  # what is held out is not repeated
            counts[split] += size[0] * share * times
            documents += size[1] * share * times
    source = "estimated from the files and limits of its sources"
    if tokens is not None:
        total = sum(counts.values())
        documents = documents * tokens / total if total else tokens / TOKENS_PER_DOCUMENT
        counts, source = {split: tokens * share for split, share in shares.items()}, "as plan.tokens says"
        read = tokens
    blocks = {split: int(count / settings.block_length) for split, count in counts.items()}
    annotated = any(getattr(one, "annotates", False) for one in settings.sources.values())
    return CorpusSize(blocks, round(documents), settings.block_length, vocabulary, characters, source, annotated, read)


def characters_of(vocabulary: int) -> float:
    """Of a token, by the nearest vocabulary that is known."""
    return CHARACTERS[min(CHARACTERS, key=lambda size: abs(size - vocabulary))]
