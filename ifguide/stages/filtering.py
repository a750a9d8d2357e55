"""What a filter leaves of the corpus: scores of documents → the training split without those that are dropped."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ifguide.checks import argument
from ifguide.classifiers.base import ClassifierSettings, SharedClassifier
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.documents import Query
from ifguide.corpus.filters import DocumentFilter, TextFilter, filter_facts
from ifguide.corpus.masks import MASK_FILE, TokenMask
from ifguide.corpus.queries import check_queries
from ifguide.corpus.repacking import (
    check_readable,
    document_lengths,
    document_sums,
    document_texts,
    write_kept,
    write_kept_mask,
)
from ifguide.cost import FLOAT, SECONDS_PER_TEXT, CorpusSize, Work, lacking
from ifguide.influence.store import open_scores
from ifguide.processes import Processes
from ifguide.stages.stage import Inputs, Stage, late_setting, made_from, speed
from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import describe

log = logging.getLogger(__name__)
DOCUMENT_SCORES_FILE = "document_scores.npy"  # [scores a document, documents]
DROPPED_FILE = "dropped.npy"


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedDocuments(Stage):
    """What a filter that reads thinks of each training document.

    Attributes:
        data: the corpus.
        classifier: who judges, if anyone does.
        filter: the filter; its rule decides what is dropped, not what is thought.
        behaviours: queries of each behaviour, for a filter that learns from them.
        judge, trainer: what loads the classifier, and the device on which it judges.
    """

    name: ClassVar[str] = "document_scores"
    version: ClassVar[int] = 1
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    classifier: Stage | None = made_from(None)
    filter: TextFilter = speed()
    behaviours: Mapping[str, Sequence[Query]] = late_setting({})
    judge: ClassifierSettings | None = speed(None)
    trainer: TrainerSettings = speed()

    def derived_settings(self) -> dict[str, Any]:
        described = describe(self.filter)
        return {
            "filter": {key: value for key, value in described.items() if key not in (*self.filter.rule, "classifier")}
        }

    def check(self) -> None:
        for queries in self.behaviours.values():
            check_queries(queries)

    def check_corpus(self, corpus: Corpus) -> None:
        check_readable(corpus, "filter")

    def work(self, corpus: CorpusSize) -> Work:
        seconds = SECONDS_PER_TEXT * corpus.documents
        return Work(seconds=seconds, disk=8.0 * corpus.documents, lacking=lacking(self.judge))

    def build(self, folder: Path, inputs: Inputs) -> None:
        self.trainer.on_all_devices(lambda processes: self.judged(folder, inputs, processes))

    def judged(self, folder: Path, inputs: Inputs, processes: Processes) -> None:
        corpus, classifier = inputs.corpus(), None
        texts = document_texts(corpus.split("train"), corpus.tokenizer)
        if self.judge is not None:
            classifier = SharedClassifier.load(self.judge, inputs["classifier"], processes)
        with argument("filter"):
            scores = self.filter.scores(texts, list(self.behaviours.values()), classifier)
        if processes.is_first:
            np.save(folder / DOCUMENT_SCORES_FILE, scores)


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentInfluence(Stage):
    """The influence of each training document: the sum of its tokens' scores, for each behaviour."""

    name: ClassVar[str] = "document_scores"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    scores: Stage = made_from()

    def work(self, corpus: CorpusSize) -> Work:
        return Work(seconds=1e-8 * corpus.tokens("train"), disk=8.0 * corpus.documents)

    def build(self, folder: Path, inputs: Inputs) -> None:
        split = inputs.corpus().split("train")
        sums = [document_sums(column, split) for column in open_scores(inputs["scores"])]
        np.save(folder / DOCUMENT_SCORES_FILE, np.stack(sums))


@dataclass(frozen=True, kw_only=True, eq=False)
class Filtered(Stage):
    """The training split that a filter leaves, as a corpus of that split alone.

    Attributes:
        data: the corpus.
        judged: scores of its documents.
        filter: the filter, whose rule says what is dropped.
    """

    name: ClassVar[str] = "filtered"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    judged: Stage = made_from()
    filter: DocumentFilter = speed()

    def derived_settings(self) -> dict[str, Any]:
        described = describe(self.filter)
        return {"rule": {key: described[key] for key in self.filter.rule}}

    def work(self, corpus: CorpusSize) -> Work:
        """Where nothing is dropped: at most."""
        tokens = corpus.tokens("train")
        return Work(seconds=1e-7 * tokens, disk=FLOAT * tokens)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        split = corpus.split("train")
        dropped = self.filter.drop(np.load(inputs["judged"] / DOCUMENT_SCORES_FILE))
        np.save(folder / DROPPED_FILE, dropped)
        facts = filter_facts(dropped, document_lengths(split), np.asarray(split.documents["label"]))
        every = facts["all"]
        log.info(
            "The filter drops %s of %s training documents, %s of the tokens",
            f"{every['documents_dropped']:,}", f"{every['documents']:,}", f"{every['tokens_dropped_share']:.1%}",
        )  # fmt: skip
        return {"train": write_kept(folder, corpus, dropped), "filter": facts}


@dataclass(frozen=True, kw_only=True, eq=False)
class FilteredMask(Stage):
    """The mask of what a filter leaves: the selection is made on the whole corpus, and follows its tokens."""

    name: ClassVar[str] = "filtered_mask"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    mask: Stage = made_from()
    filtered: Stage = made_from()

    def work(self, corpus: CorpusSize) -> Work:
        tokens = corpus.tokens("train")
        return Work(seconds=1e-7 * tokens, disk=tokens / 8)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        split = inputs.corpus().split("train")
        mask = TokenMask.open(inputs["mask"] / MASK_FILE, split.block_length)
        dropped = np.load(inputs["filtered"] / DROPPED_FILE)
        selected = write_kept_mask(folder / MASK_FILE, mask, split, dropped)
        return {"selected": selected, "block_length": split.block_length}
