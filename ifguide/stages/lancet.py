"""LANCET-style correction: queries from what the model wrote, scores of whole training sequences, post-training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ifguide.checks import argument
from ifguide.classifiers.base import PROBABILITIES_FILE, TOXICITY, ClassifierSettings, SharedClassifier
from ifguide.corpus.blocks import Corpus
from ifguide.cost import PROMPT, SECONDS_PER_TEXT, CorpusSize, Work, lacking, shape_of
from ifguide.cost.influence import differentiating
from ifguide.cost.post_training import learning_in_groups
from ifguide.decoding.generation import GENERATIONS_FILE, load_generations
from ifguide.influence.chain import InfluenceSettings, direction_reliability, find_direction
from ifguide.influence.curvature import Curvature
from ifguide.influence.direction import save_direction
from ifguide.influence.factors import load_factors
from ifguide.influence.store import open_scores
from ifguide.methods.lancet import Lancet, queries_of
from ifguide.models import ModelSettings
from ifguide.processes import Processes
from ifguide.stages import findings
from ifguide.stages.stage import Inputs, Stage, late_setting, made_from, setting, speed
from ifguide.training.context import TrainingSetup, save_trained
from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import global_rank, open_archive

SEQUENCE_SCORES_FILE = "sequence_scores.npy"  # [blocks]

SUMMING = 1e-8  # seconds for each token


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledDirection(Stage):
    """The direction of what a model wrote that a classifier finds toxic, at that model itself; without contrast.

    Attributes:
        model: who wrote, and whose gradients are taken.
        data: the corpus.
        factors: of the curvature of that model.
        samples, judged: its continuations, and what the classifier makes of them.
        threshold: probability from which one is toxic.
        curvature: with its damping.
        influence, loading, trainer: which layers, queries at a time; how and where the model is loaded.
    """

    name: ClassVar[str] = "sampled_direction"
    version: ClassVar[int] = 1
    collective: ClassVar[bool] = True

    model: Stage = made_from()
    data: Stage = made_from()
    factors: Stage = made_from()
    samples: Stage = made_from()
    judged: Stage = made_from()
    threshold: float = setting()
    curvature: Curvature = setting()
    influence: InfluenceSettings = speed()
    loading: ModelSettings = speed()
    trainer: TrainerSettings = speed()

    def derived_settings(self) -> dict[str, Any]:
        return self.influence.rounding

    def work(self, corpus: CorpusSize) -> Work:
        """Where all continuations are toxic: at most."""
        texts, new = (getattr(self.samples, name, 0) for name in ("texts", "new_tokens"))
        return differentiating(
            shape_of(self.loading, corpus.vocabulary), self.curvature, self.influence, queries=texts,
            tokens=texts * (PROMPT + new), block_length=corpus.block_length,
        )  # fmt: skip

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        return self.trainer.on_all_devices(lambda processes: self.find(folder, inputs, processes))

    def find(self, folder: Path, inputs: Inputs, processes: Processes) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        split, tokenizer = corpus.split("train"), corpus.tokenizer
        probabilities = open_archive(inputs["judged"] / PROBABILITIES_FILE)[TOXICITY]
        queries = queries_of(load_generations(inputs["samples"] / GENERATIONS_FILE), probabilities, self.threshold)
        model = self.loading.load(inputs["model"], processes.device)
        shared = (model, load_factors(inputs["factors"]), self.curvature, self.influence, queries, tokenizer)
        direction, facts = find_direction(*shared, block_length=split.block_length, processes=processes)
        if processes.is_first:
            save_direction(direction, folder)
        correlation = direction_reliability(*shared, split, facts["gradient_dtype"], processes)
        found = findings.of_direction(correlation, 0, len(queries))
        return {**facts, "continuations": probabilities.size, "split_half_correlation": correlation, **found}


@dataclass(frozen=True, kw_only=True, eq=False)
class InfluenceOfSequences(Stage):
    """⟨v, ∇ Σ_t ℓ[n,t]⟩ of each training sequence: the sum of its tokens' scores.

    Attributes:
        scores: of all tokens, along one direction.
        length: tokens of a sequence, from the beginning of its block; None: all.
    """

    name: ClassVar[str] = "sequence_influence"
    version: ClassVar[int] = 1

    scores: Stage = made_from()
    length: int | None = late_setting(None)

    def work(self, corpus: CorpusSize) -> Work:
        return Work(seconds=SUMMING * corpus.tokens("train"), disk=8.0 * corpus.blocks["train"])

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        (scores_BT,) = open_scores(inputs["scores"])
        return save_scores(folder, scores_BT[:, : self.length].sum(1, dtype=np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedSequences(Stage):
    """How toxic a classifier finds each training sequence, from −1 to 1; 0: it cannot tell.

    Attributes:
        data: the corpus.
        classifier: who judges.
        length: tokens of a sequence, from the beginning of its block; None: all.
        judge, trainer: what loads the classifier, and the device on which it judges.
    """

    name: ClassVar[str] = "sequence_toxicity"
    version: ClassVar[int] = 1
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    classifier: Stage = made_from()
    length: int | None = late_setting(None)
    judge: ClassifierSettings = speed()
    trainer: TrainerSettings = speed()

    def work(self, corpus: CorpusSize) -> Work:
        count = corpus.blocks["train"]
        return Work(seconds=SECONDS_PER_TEXT * count, disk=8.0 * count, lacking=lacking(self.judge))

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        tokens = corpus.split("train").tokens(slice(None))[:, : self.length]
        texts = corpus.tokenizer.backend_tokenizer.decode_batch(tokens.tolist(), skip_special_tokens=True)

        def judge(processes: Processes) -> NDArray[np.float64]:
            return SharedClassifier.load(self.judge, inputs["classifier"], processes)(texts)[TOXICITY]

        probabilities = self.trainer.on_all_devices(judge)
        return save_scores(folder, 2 * probabilities - 1) if global_rank() == 0 else {}


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomSequences(Stage):
    """A random score of each training sequence, from −1 to 1: a control.

    Attributes:
        data: the corpus.
        seed: of the scores.
    """

    name: ClassVar[str] = "sequence_chance"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    seed: int = setting()

    def work(self, corpus: CorpusSize) -> Work:
        return Work(seconds=SUMMING * corpus.tokens("train"), disk=8.0 * corpus.blocks["train"])

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        count = len(inputs.corpus().split("train"))
        return save_scores(folder, np.random.default_rng([self.seed, 3]).uniform(-1, 1, count))


def save_scores(folder: Path, scores_B: NDArray[np.float64]) -> dict[str, Any]:
    """Write scores of sequences; facts: their percentiles."""
    np.save(folder / SEQUENCE_SCORES_FILE, scores_B)
    return {"percentiles": dict(zip(("5", "50", "95"), np.percentile(scores_B, [5, 50, 95]).tolist(), strict=True))}


@dataclass(frozen=True, kw_only=True, eq=False)
class Corrected(Stage):
    """A trained model after post-training on ranked sequences: a Hugging Face folder.

    Attributes:
        data: the corpus, all of it, whatever a filter left the model to train on.
        model: what is corrected.
        sequences: scores of the training sequences.
        post_training: its settings.
        precision: of the trainer.
        loading: how the model is loaded.
        setup: where it is computed, and who watches.
    """

    name: ClassVar[str] = "model"
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    model: Stage = made_from()
    sequences: Stage = made_from()
    post_training: Lancet = setting()
    precision: str = setting()
    loading: ModelSettings = speed()
    setup: TrainingSetup = speed()

    def derived_settings(self) -> dict[str, Any]:
        settings = self.post_training
        return {} if settings.dropped == settings.drop else {"dropped": settings.dropped}

    def check(self) -> None:
        with argument("post_training.optim"):
            self.setup.trainer.accumulate(self.post_training.optim.batch_size)

    def check_corpus(self, corpus: Corpus) -> None:
        split = corpus.split("train")
        with argument("post_training"):
            self.post_training.check(len(split), split.block_length)

    def work(self, corpus: CorpusSize) -> Work:
        """The policy learns from three sequences for each pair, which its frozen copy reads."""
        pairs = self.post_training.pairs(corpus.blocks["train"])
        return learning_in_groups(
            shape_of(self.loading, corpus.vocabulary), self.setup.trainer, group=3, read=1,
            batch_size=self.post_training.optim.batch_size, steps=self.post_training.optim.steps(pairs, "pairs"),
            length=self.post_training.length or corpus.block_length, vocabulary=corpus.vocabulary,
        )  # fmt: skip

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus, policy = inputs.corpus(), self.loading.load(inputs["model"])
        facts = self.post_training.train(
            policy,
            self.loading.load(inputs["model"]),
            corpus.split("train"),
            np.load(inputs["sequences"] / SEQUENCE_SCORES_FILE),
            self.setup.within(folder),
        )
        save_trained(policy, corpus.tokenizer, folder)
        return facts
