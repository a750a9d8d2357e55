"""Token scores without influence: of a classifier's windows, or of a probe that was trained on labelled texts."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ifguide.checks import argument
from ifguide.classifiers.base import ClassifierSettings, SharedClassifier
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import check_labelled
from ifguide.corpus.offsets import TokenOffsets
from ifguide.corpus.repacking import check_readable, document_tokens
from ifguide.cost import FLOAT, SECONDS_PER_TEXT, CorpusSize, Work, lacking
from ifguide.influence.classified import WindowClassifier, write_documents
from ifguide.influence.token_probe import TokenProbe
from ifguide.processes import Processes
from ifguide.stages import findings
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.trainer import TrainerSettings

PROBING = 7e-6  # seconds of an epoch for each token


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedTokens(Stage):
    """Scores of all training tokens by a classifier of the words around each (`WindowClassifier`).

    Attributes:
        data: the corpus.
        classifier: who judges.
        scorer: which windows, and how they are pooled.
        behaviours: the name of the one column.
        judge, trainer: what loads the classifier, and the device on which it judges.
    """

    name: ClassVar[str] = "judged_tokens"
    version: ClassVar[int] = 1
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    classifier: Stage = made_from()
    scorer: WindowClassifier = setting()
    behaviours: Sequence[str] = speed()
    judge: ClassifierSettings = speed()
    trainer: TrainerSettings = speed()

    def check_corpus(self, corpus: Corpus) -> None:
        check_readable(corpus, "scorer")

    def work(self, corpus: CorpusSize) -> Work:
        """A window around each word, of which there are no more than tokens."""
        tokens = corpus.tokens("train")
        return Work(seconds=SECONDS_PER_TEXT * tokens, disk=FLOAT * tokens, lacking=lacking(self.judge))

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        return self.trainer.on_all_devices(lambda processes: self.judged(folder, inputs, processes))

    def judged(self, folder: Path, inputs: Inputs, processes: Processes) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        split, classifier = corpus.split("train"), SharedClassifier.load(self.judge, inputs["classifier"], processes)
        documents, offsets = document_tokens(split), TokenOffsets(corpus.tokenizer)
        with argument("scorer"):
            scores = self.scorer.scores(documents, offsets, corpus.end_of_text, classifier)
        if processes.is_first:
            write_documents(folder, split.shape, scores)
        else:
            deque(scores, maxlen=0)  # reads its share for the first
        return {"behaviours": list(self.behaviours)}


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedProbe(Stage):
    """A probe that was trained on labelled texts (`ifguide.influence.token_probe`).

    Attributes:
        data: the corpus, for its tokenizer.
        probe: how it is trained.
        labelled: what it learns from.
    """

    name: ClassVar[str] = "token_probe"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    probe: TokenProbe = setting()
    labelled: Sequence[LabelledText] = setting()

    def check(self) -> None:
        check_labelled(self.labelled)

    def work(self, corpus: CorpusSize) -> Work:
        tokens = corpus.tokens_of(one.text for one in self.labelled)
        disk = FLOAT * corpus.vocabulary * self.probe.width
        return Work(seconds=PROBING * self.probe.epochs * tokens, disk=disk)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        network, facts = self.probe.fit(self.labelled, inputs.corpus().tokenizer)
        network.save(folder)
        return {**facts, **findings.of_judge("the probe", facts)}
