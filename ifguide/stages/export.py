"""The mask, to be taken elsewhere: selected text with its spans, and a data set with a mask column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datasets import disable_progress_bars

from ifguide.corpus.export import MaskedSplit, check_unit
from ifguide.corpus.masks import MASK_FILE, TokenMask
from ifguide.cost import FLOAT, PROCESS, CorpusSize, Memory, Work
from ifguide.influence.store import open_scores
from ifguide.stages.stage import Inputs, Stage, made_from, setting

EXPORTING = 1e-5  # seconds for each token


@dataclass(frozen=True, kw_only=True, eq=False)
class Export(Stage):
    """Selected documents as JSONL and Parquet, and the blocks or documents with their mask as a data set.

    Attributes:
        data: the corpus.
        mask: of its training split.
        scores: what the mask was selected from.
        behaviours: names of the columns of the scores.
        unit: what a row of the data set is: `block` or `document`.
    """

    name: ClassVar[str] = "export"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    mask: Stage = made_from()
    scores: Stage = made_from()
    behaviours: Sequence[str] = setting()
    unit: str = setting()

    def check(self) -> None:
        check_unit(self.unit)

    def work(self, corpus: CorpusSize) -> Work:
        """As a table: each token with its score and its place in the mask, and the texts."""
        tokens = corpus.tokens("train")
        return Work(seconds=EXPORTING * tokens, memory=Memory(PROCESS), disk=tokens * (3 * FLOAT + corpus.characters))

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        disable_progress_bars()  # of datasets, which ends no line where there is no terminal
        corpus = inputs.corpus()
        split = corpus.split("train")
        mask = TokenMask.open(inputs["mask"] / MASK_FILE, split.block_length)
        scores = dict(zip(self.behaviours, open_scores(inputs["scores"]), strict=True))
        masked = MaskedSplit(split, mask, scores, corpus.sources)
        return masked.export(folder, corpus.tokenizer, unit=self.unit)
