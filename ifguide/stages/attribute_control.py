"""A round of attribute-controlled fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ifguide.checks import argument
from ifguide.corpus.blocks import Corpus
from ifguide.cost import CorpusSize, Work, reading, shape_of, training
from ifguide.methods.attribute_control import TIMED, AttributeControl
from ifguide.methods.nado import GuidanceHead
from ifguide.models import ModelSettings
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.context import TrainingSetup, save_trained


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlledModel(Stage):
    """A model after a round: a Hugging Face folder.

    Attributes:
        data: the corpus that is learned.
        model: of the round before.
        guidance: R̂ of the round.
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
        """R̂ is small beside the model, and is not counted. Before the first step, steps are timed."""
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
        return replace(found, passes=passes)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus, model = inputs.corpus(), self.loading.load(inputs["model"])
        guidance, context = GuidanceHead.load(inputs["guidance"]), self.setup.within(folder)
        facts = self.post_training.train(model, guidance, corpus=corpus, round_=self.round_, context=context)
        save_trained(model, corpus.tokenizer, folder)
        return facts
