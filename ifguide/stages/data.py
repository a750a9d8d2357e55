"""The corpus: documents → token blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ifguide.checks import argument
from ifguide.corpus.build import CorpusSettings
from ifguide.stages import findings
from ifguide.stages.stage import Inputs, Stage, setting


@dataclass(frozen=True, kw_only=True, eq=False)
class Data(Stage):
    """Token blocks of a corpus, with its tokenizer and document index (`ifguide.corpus.blocks`)."""

    name: ClassVar[str] = "data"
    version: ClassVar[int] = 2

    corpus: CorpusSettings = setting()

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        with argument("corpus"):
            splits = self.corpus.build(folder)
        return {**splits, **findings.of_corpus(splits)}
