"""The corpus: documents → token blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ifguide.checks import argument
from ifguide.corpus.blocks import DOCUMENT_ROW
from ifguide.corpus.build import CorpusSettings
from ifguide.cost import FLOAT, PROCESS, TOKENIZER, CorpusSize, Memory, Work
from ifguide.stages import findings
from ifguide.stages.stage import Inputs, Stage, setting

TRAINING = 2.0  # seconds, of a tokenizer
SECONDS_PER_TOKEN = 4e-6  # read and tokenised, by a core of a server
BYTES_PER_DOCUMENT = 400.0  # of memory, while the order of documents is decided


@dataclass(frozen=True, kw_only=True, eq=False)
class Data(Stage):
    """Token blocks of a corpus, with its tokenizer and document index (`ifguide.corpus.blocks`)."""

    name: ClassVar[str] = "data"
    version: ClassVar[int] = 2

    corpus: CorpusSettings = setting()

    def work(self, corpus: CorpusSize) -> Work:
        tokens, documents = corpus.tokens(), corpus.documents
        kept = FLOAT * tokens + tokens / 8 + DOCUMENT_ROW.itemsize * documents + TOKENIZER * corpus.vocabulary
        memory = Memory(PROCESS + BYTES_PER_DOCUMENT * documents + tokens)
        read = corpus.read or tokens
        seconds = TRAINING + SECONDS_PER_TOKEN * read
        return Work(seconds=seconds, memory=memory, disk=kept, scratch=(FLOAT + 1) * read)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        with argument("corpus"):
            splits = self.corpus.build(folder)
        return {**splits, **findings.of_corpus(splits)}
