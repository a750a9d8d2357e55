"""Control tokens before the segments of a corpus: scores of segments → a corpus of its own, and masks that follow."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ifguide.checks import argument
from ifguide.classifiers.base import ClassifierSettings, SharedClassifier
from ifguide.corpus.blocks import LABELS, SPLITS, Corpus, Split, write_info
from ifguide.corpus.control_tokens import (
    BAD,
    KINDS,
    UNTAGGED,
    ControlTokens,
    control_ids,
    good_documents,
    named_tokenizer,
    segments,
    tags,
)
from ifguide.corpus.documents import BENIGN, TOXIC
from ifguide.corpus.insertion import Insertion
from ifguide.corpus.masks import MASK_FILE, TokenMask
from ifguide.corpus.repacking import check_readable
from ifguide.cost import FLOAT, SECONDS_PER_TEXT, CorpusSize, Work, lacking
from ifguide.processes import Processes
from ifguide.stages.stage import Inputs, Stage, made_from, speed
from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import describe

log = logging.getLogger(__name__)
STARTS_FILE = "segment_starts.npy"  # [segments], positions in the stream
SCORES_FILE = "segment_scores.npy"  # [segments]
TAGS_FILE = "tags.npz"
SEGMENT = 20  # tokens of a sentence, about
WRITING = 1e-7  # seconds for each token


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedSegments(Stage):
    """What a classifier thinks of each segment of the training split.

    Attributes:
        data: the corpus.
        classifier: who judges.
        filter: what a segment is; its rule decides which are bad, not what is thought of them.
        judge, trainer: what loads the classifier, and the device on which it judges.
    """

    name: ClassVar[str] = "segment_scores"
    version: ClassVar[int] = 1
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    classifier: Stage = made_from()
    filter: ControlTokens = speed()
    judge: ClassifierSettings = speed()
    trainer: TrainerSettings = speed()

    def derived_settings(self) -> dict[str, Any]:
        return {key: describe(getattr(self.filter, key), key) for key in ("unit", "category")}

    def check_corpus(self, corpus: Corpus) -> None:
        check_readable(corpus, "filter")

    def work(self, corpus: CorpusSize) -> Work:
        count = corpus.documents if self.filter.unit == "document" else corpus.tokens("train") / SEGMENT
        return Work(seconds=SECONDS_PER_TEXT * count, disk=16.0 * count, lacking=lacking(self.judge))

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        return self.trainer.on_all_devices(lambda processes: self.judged(folder, inputs, processes))

    def judged(self, folder: Path, inputs: Inputs, processes: Processes) -> Mapping[str, Any]:
        corpus, starts = inputs.corpus(), [np.zeros(0, np.int64)]

        def texts() -> Iterator[list[str]]:
            for first, text in segments(corpus.split("train"), corpus.tokenizer, self.filter.unit):
                starts.append(first)
                yield text

        with argument("filter"):
            scores = self.filter.scores(texts(), SharedClassifier.load(self.judge, inputs["classifier"], processes))
        if processes.is_first:
            np.save(folder / STARTS_FILE, np.concatenate(starts))
            np.save(folder / SCORES_FILE, scores)
        return {"segments": len(scores)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Tagged(Stage):
    """A corpus with control tokens: before the segments of the training split, and the good one before every document
    of the others. Its tokenizer has them.

    Attributes:
        data: the corpus.
        judged: scores of the segments of its training split.
        filter: what the tokens are, and which segment gets which.
    """

    name: ClassVar[str] = "tagged"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    judged: Stage = made_from()
    filter: ControlTokens = speed()

    def derived_settings(self) -> dict[str, Any]:
        return {"rule": {key: describe(getattr(self.filter, key), key) for key in self.filter.rule}}

    def check_corpus(self, corpus: Corpus) -> None:
        with argument("filter"):
            self.filter.check_tokenizer(corpus.tokenizer)

    def work(self, corpus: CorpusSize) -> Work:
        """Where every token of text has a control token before it, twice as large: at most."""
        return Work(seconds=WRITING * corpus.tokens(), disk=2.0 * FLOAT * corpus.tokens())

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        tokenizer = named_tokenizer(corpus.path / "tokenizer", self.filter.good, self.filter.bad)
        tokenizer.save_pretrained(folder / "tokenizer")
        ids = control_ids(tokenizer)
        assert ids is not None
        starts = np.load(inputs["judged"] / STARTS_FILE)
        kinds = self.filter.kinds(np.load(inputs["judged"] / SCORES_FILE))
        facts = {}
        for name in SPLITS:
            split = corpus.split(name)
            inserted = tags(starts, kinds, ids) if name == "train" else good_documents(split, ids)
            facts[name] = inserted.write(folder, name, split)
            if name == "train":
                inserted.save(folder / TAGS_FILE)
        info = {
            "sources": corpus.sources, "block_length": corpus.info["block_length"], "facts": facts,
            "control_tokens": ids, "text_vocabulary": corpus.vocabulary,
        }  # fmt: skip
        write_info(folder, info)
        found = tag_facts(starts, kinds, corpus.split("train"))
        log.info(
            "Of %s segments %.1f%% are bad, %.1f%% have no control token",
            f"{found['all']['segments']:,}", *(100 * found["all"][key] for key in ("bad_share", "untagged_share")),
        )  # fmt: skip
        return {**facts, "filter": found}


@dataclass(frozen=True, kw_only=True, eq=False)
class TaggedMask(Stage):
    """The mask of a corpus with control tokens: the selection is made without them, and follows its tokens."""

    name: ClassVar[str] = "tagged_mask"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    mask: Stage = made_from()
    tagged: Stage = made_from()

    def work(self, corpus: CorpusSize) -> Work:
        return Work(seconds=WRITING * corpus.tokens("train"), disk=corpus.tokens("train") / 4)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        split = inputs.corpus().split("train")
        mask = TokenMask.open(inputs["mask"] / MASK_FILE, split.block_length)
        inserted = Insertion.open(inputs["tagged"] / TAGS_FILE)
        return {"selected": inserted.write_mask(folder / MASK_FILE, mask, split), "block_length": split.block_length}


def tag_facts(starts_K: NDArray[np.int64], kinds_K: NDArray[np.int64], split: Split) -> dict[str, dict[str, float]]:
    """How segments are tagged, of `all` documents and of those of each label: subset → segments, the share of them that
    is bad or has no token, documents, and the share of those in which a segment is bad."""
    owner, labels = split.documents_of(starts_K), np.asarray(split.documents["label"])
    is_bad = kinds_K == KINDS.index(BAD)
    bad_D = np.bincount(owner[is_bad], minlength=len(labels)) > 0
    groups = {"all": np.ones(len(labels), bool)} | {
        label: labels == LABELS[label] for label in (BENIGN, TOXIC) if (labels == LABELS[label]).any()
    }
    return {
        group: {
            "segments": int(members[owner].sum()),
            "bad_share": float(is_bad[members[owner]].mean()),
            "untagged_share": float((kinds_K == UNTAGGED)[members[owner]].mean()),
            "documents": int(members.sum()),
            "documents_bad_share": float(bad_D[members].mean()),
        }
        for group, members in groups.items()
    }
