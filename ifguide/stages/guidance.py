"""R̂ of a model: what guides its decoding, or its fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ifguide.checks import argument
from ifguide.cost import PROMPT, CorpusSize, Work, reading, shape_of
from ifguide.methods.nado import GuidanceHead, GuidanceTraining
from ifguide.models import ModelSettings
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.context import TrainingSetup, remove_checkpoints
from ifguide.workspace import global_rank


@dataclass(frozen=True, kw_only=True, eq=False)
class Guidance(Stage):
    """A head on a model's hidden states, trained on labelled samples.

    Attributes:
        data: the corpus, for its end-of-text token.
        model: whose hidden states it reads.
        samples, judged: what the model, or it as it was before, wrote, and what a classifier makes of it.
        start: what has the head that is continued; None: a new one.
        training: its settings.
        prompts: how many there are.
        precision: of the trainer.
        loading: how the model is loaded.
        setup: where it is computed, and who watches.
    """

    name: ClassVar[str] = "guidance"
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    model: Stage = made_from()
    samples: Stage = made_from()
    judged: Stage = made_from()
    start: Stage | None = made_from(None)
    training: GuidanceTraining = setting()
    precision: str = setting()
    prompts: int = speed()
    loading: ModelSettings = speed()
    setup: TrainingSetup = speed()

    def check(self) -> None:
        with argument("training.optim"):
            self.setup.trainer.accumulate(self.training.optim.batch_size)
        with argument("training"):
            self.training.check(self.prompts)

    def work(self, corpus: CorpusSize) -> Work:
        """The model reads its samples in every epoch, without gradients; the head is small beside it."""
        sampling, micro = self.training.sampling, self.setup.trainer.micro_batch_size
        optim = self.training.optim
        count = optim.expected_steps(self.prompts * sampling.samples) * optim.batch_size
        model, length = shape_of(self.loading, corpus.vocabulary), PROMPT + sampling.max_new_tokens
        return reading(model, batch_size=micro, count=count, length=length, setting="trainer.micro_batch_size")

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        model = self.loading.load(inputs["model"])
        samples = self.training.read(inputs["samples"], inputs["judged"], inputs.corpus().end_of_text)
        head = GuidanceHead.load(inputs["start"]) if "start" in inputs else self.training.new(model, samples)
        facts = self.training.train(head, model, samples, self.setup.within(folder))
        if global_rank() == 0:
            head.save(folder)
            remove_checkpoints(folder)
        return facts
