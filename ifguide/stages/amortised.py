"""Scores by a student of exact ones (`ifguide.influence.amortised`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.tokenizers import token_texts
from ifguide.cost import FLOAT, CorpusSize, Work
from ifguide.influence.amortised import Student
from ifguide.influence.floors import held_out_quality
from ifguide.influence.scorers import TokenScorer
from ifguide.influence.scoring import ScoringModule, fill_store, rows_of_share
from ifguide.influence.store import ScoreStore, open_scores
from ifguide.stages import findings
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.trainer import TrainerSettings

FITTING, READING = 5e-5, 2e-6  # seconds for each token that a student learns from in an epoch, or reads
STUDENT_TOKENS = 8192  # that a student reads at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedStudent(Stage):
    """A student of exact scores of some blocks.

    Attributes:
        exact: the scores.
        data: the corpus.
        student: what is fitted.
        share, share_seed: which blocks the scores are of.
        floors: measure what the student has learned, for the manifest; the student is the same.
    """

    name: ClassVar[str] = "student"
    version: ClassVar[int] = 2

    exact: Stage = made_from()
    data: Stage = made_from()
    student: Student = setting()
    share: float = speed()
    share_seed: int = speed()
    floors: bool = speed(True)

    def work(self, corpus: CorpusSize) -> Work:
        seconds = (READING + FITTING * getattr(self.student, "epochs", 0)) * self.share * corpus.tokens("train")
        width = getattr(self.student, "width", 1)
        return Work(seconds=seconds * (1 + self.floors), disk=FLOAT * corpus.vocabulary * width)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        split = corpus.split("train")
        rows = rows_of_share(len(split), self.share, self.share_seed)
        scores, texts, length = open_scores(inputs["exact"]), token_texts(corpus.tokenizer), split.block_length

        def tokens(places: slice) -> NDArray[np.int64]:
            return split.tokens(rows[places])

        student, facts = self.student.fit(scores, tokens, texts)
        student.save(folder)
        held_out: dict[str, Any] = {}
        if self.floors:
            documents = split.documents_of(rows[:, None] * length + np.arange(length))
            held_out = held_out_quality(self.student, scores, tokens, texts, documents, seed=self.share_seed)
        found = findings.of_student(held_out) if held_out else {}
        return {"blocks": len(rows), **facts, "held_out": held_out, **found}


@dataclass(frozen=True, kw_only=True, eq=False)
class StudentScores(Stage):
    """Scores of all training blocks by a student.

    Attributes:
        fitted: the student.
        data: the corpus.
        behaviours: names of the columns.
        student: what loads the fitted one.
        trainer, shard_blocks: where, and blocks per file.
    """

    name: ClassVar[str] = "scores"
    version: ClassVar[int] = 2
    resumable: ClassVar[bool] = True
    collective: ClassVar[bool] = True

    fitted: Stage = made_from()
    data: Stage = made_from()
    behaviours: Sequence[str] = speed()
    student: Student = speed()
    trainer: TrainerSettings = speed()
    shard_blocks: int = speed()

    def work(self, corpus: CorpusSize) -> Work:
        tokens = corpus.tokens("train")
        disk = FLOAT * tokens * len(self.behaviours)
        return Work(seconds=READING * tokens, disk=disk, scratch=disk)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        split = inputs.corpus().split("train")
        module = ScoringModule(
            self.student.load(inputs["fitted"]),
            lambda model: TokenScorer(model.scores),
            ScoreStore(folder, (len(self.behaviours), *split.shape), shard_blocks=self.shard_blocks),
            split.tokens,
            batch_size=max(1, STUDENT_TOKENS // split.block_length),
        )
        return {"behaviours": list(self.behaviours), **fill_store(self.trainer.inference_trainer(), module)}
