"""A round of attribute-controlled fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ifguide.checks import argument
from ifguide.corpus.blocks import Corpus
from ifguide.cost import PROMPT, CorpusSize, Work, reading, shape_of, training
from ifguide.methods.attribute_control import TIMED, AttributeControl
from ifguide.methods.nado import GuidanceHead
from ifguide.models import ModelSettings
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.context import TrainingSetup, save_trained
from ifguide.workspace import global_rank


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlledModel(Stage):
    """A model after a round: a Hugging Face folder; in the parallel scheme the next round's R̂ is in it, too.

    Attributes:
        data: the corpus that is learned.
        model: of the round before.
        guidance: what has the R̂ of the round before.
        samples, judged: what the next R̂ learns from at the same time; None: none learns.
        post_training: the settings.
        round_: from 1 up.
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
    guidance: Stage = made_from()
    samples: Stage | None = made_from(None)
    judged: Stage | None = made_from(None)
    post_training: AttributeControl = setting()
    round_: int = setting()
    precision: str = setting()
    loading: ModelSettings = speed()
    setup: TrainingSetup = speed()

    def derived_settings(self) -> dict[str, Any]:
        split = self.setup.micro_batches(self.post_training.optim.batch_size)
        return split if split and self.loading.has_dropout else {}

    def check(self) -> None:
        with argument("post_training.optim"):
            self.setup.trainer.accumulate(self.post_training.optim.batch_size)

    def check_corpus(self, corpus: Corpus) -> None:
        with argument("post_training"):
            self.post_training.check(corpus)

    def work(self, corpus: CorpusSize) -> Work:
        """R̂ is small beside the model, and is not counted; what it learns from is read by the model. Before the first
        step, steps are timed."""
        settings, optim = self.post_training, self.post_training.optim
        model, trainer = shape_of(self.loading, corpus.vocabulary), self.setup.trainer
        steps = optim.steps(corpus.blocks["train"])
        found = training(
            model, trainer, batch_size=optim.batch_size, steps=steps, length=corpus.block_length,
            validation=corpus.blocks["validation"], vocabulary=corpus.vocabulary,
        )  # fmt: skip
        blocks, micro = steps * optim.batch_size, found.memory.count
        passes = (*found.passes, replace(found.passes[0], count=2 * TIMED))
        if settings.frozen_teacher and settings.weight:
            passes += reading(
                model, batch_size=micro, count=blocks + TIMED * micro, length=corpus.block_length, setting=None
            ).passes
        if self.samples is not None:
            each = -(-settings.guidance.optim.batch_size // optim.batch_size)
            passes += reading(
                model, batch_size=micro * each, count=blocks * each, setting=None,
                length=PROMPT + settings.guidance.sampling.max_new_tokens,
            ).passes  # fmt: skip
        return replace(found, passes=passes)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus, samples = inputs.corpus(), None
        if "samples" in inputs:
            training = self.post_training.guidance
            samples = training.read(inputs["samples"], inputs["judged"], corpus.end_of_text)
        model = self.loading.load(inputs["model"])
        learner, facts = self.post_training.train(
            model,
            GuidanceHead.load(inputs["guidance"]),
            samples=samples,
            corpus=corpus,
            round_=self.round_,
            context=self.setup.within(folder),
        )
        if learner is not None and global_rank() == 0:
            learner.save(folder)
        save_trained(model, corpus.tokenizer, folder)
        return facts
