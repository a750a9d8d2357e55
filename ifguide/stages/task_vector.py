"""A trained model without the task vector of toxic text."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ifguide.cost import FLOAT, PROCESS, TOKENIZER, CorpusSize, Memory, Work, shape_of
from ifguide.methods.task_vector import negate
from ifguide.models import ModelSettings
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.context import save_trained


@dataclass(frozen=True, kw_only=True, eq=False)
class Negated(Stage):
    """θ₀ − α(θ_toxic − θ₀): a Hugging Face folder.

    Attributes:
        data: the corpus, for its tokenizer.
        model: θ₀.
        toxic: θ_toxic, which continued it.
        alpha: α.
        loading: how both are loaded.
    """

    name: ClassVar[str] = "model"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    model: Stage = made_from()
    toxic: Stage = made_from()
    alpha: float = setting()
    loading: ModelSettings = speed()

    def work(self, corpus: CorpusSize) -> Work:
        weights = FLOAT * shape_of(self.loading, corpus.vocabulary).parameters
        return Work(seconds=2.0, memory=Memory(PROCESS + 3 * weights), disk=weights + TOKENIZER * corpus.vocabulary)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        model, toxic = self.loading.load(inputs["model"]), self.loading.load(inputs["toxic"])
        length = sum(
            float((theirs - ours).detach().double().square().sum())
            for ours, theirs in zip(model.parameters(), toxic.parameters(), strict=True)
        )
        negate(model, toxic, alpha=self.alpha)
        save_trained(model, inputs.corpus().tokenizer, folder)
        return {"vector_norm": length**0.5}
