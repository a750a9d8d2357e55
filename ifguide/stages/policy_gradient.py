"""A trained model that learns from its own continuations, which a classifier rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ifguide.checks import argument
from ifguide.classifiers.base import ClassifierSettings
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.documents import Prompt
from ifguide.cost import CorpusSize, Work, lacking, shape_of
from ifguide.cost.post_training import learning_from_samples
from ifguide.decoding.generation import encode_prompts
from ifguide.methods.rl import PolicyGradient
from ifguide.models import ModelSettings
from ifguide.opening import check_new_tokens, context_length
from ifguide.stages import findings
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.context import TrainingSetup, save_trained


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyTrained(Stage):
    """A trained model after policy gradients: a Hugging Face folder.

    Attributes:
        data: the corpus, for its tokenizer.
        model: what is trained further.
        classifier: who rewards.
        post_training: its settings.
        prompts: of the queries.
        precision: of the trainer.
        judge: settings of the classifier.
        loading: how the model is loaded.
        setup: where it is computed, and who watches.
    """

    name: ClassVar[str] = "model"
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    model: Stage = made_from()
    classifier: Stage = made_from()
    post_training: PolicyGradient = setting()
    prompts: Sequence[Prompt] = setting()
    precision: str = setting()
    judge: ClassifierSettings = speed()
    loading: ModelSettings = speed()
    setup: TrainingSetup = speed()

    def derived_settings(self) -> dict[str, Any]:
        return self.setup.micro_batches(self.post_training.optim.batch_size)  # each draws samples of its own

    def check(self) -> None:
        with argument("post_training.optim"):
            self.setup.trainer.accumulate(self.post_training.optim.batch_size)
        with argument("post_training"):
            self.post_training.check(len(self.prompts))
        processes = self.setup.trainer.split(1)[1]
        if processes > 1 and self.post_training.inner_epochs > 1:
            raise ValueError(
                f"post_training.inner_epochs={self.post_training.inner_epochs}: a checkpoint holds the samples of one "
                f"of {processes} processes; 1, or train in one process"
            )

    def check_corpus(self, corpus: Corpus) -> None:
        config = self.loading.config(corpus.vocabulary, corpus.end_of_text)
        with argument("post_training.sampling"):
            check_new_tokens(config, self.post_training.sampling.max_new_tokens)

    def work(self, corpus: CorpusSize) -> Work:
        """At most: continuations may end early, and a batch is as long as its own longest prompt."""
        settings, sampling, count = self.post_training, self.post_training.sampling, len(self.prompts)
        steps = settings.optim.steps(count, "prompts")
        found = learning_from_samples(
            shape_of(self.loading, corpus.vocabulary), self.setup.trainer, samples=sampling.samples,
            new=sampling.max_new_tokens, rows=sampling.rows, batch_size=settings.optim.batch_size, steps=steps,
            prompt=round(max(corpus.tokens_of([prompt.text]) for prompt in self.prompts)),  # the others are padded
            sampled=-(-steps // settings.inner_epochs), vocabulary=corpus.vocabulary,
        )  # fmt: skip
        return replace(found, lacking=lacking(self.judge))

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        policy, reference = (self.loading.load(inputs["model"]) for _ in range(2))
        tokenizer = inputs.corpus().tokenizer
        room = context_length(policy.config) - self.post_training.sampling.max_new_tokens
        facts = self.post_training.train(
            policy,
            reference,
            encode_prompts(self.prompts, tokenizer, room, policy.config),
            self.judge.load(inputs["classifier"], self.setup.trainer.device),
            tokenizer,
            self.setup.within(folder),
        )
        save_trained(policy, tokenizer, folder)
        return {**facts, **findings.of_policy(**{name: facts[name] for name in ("reward", "kl", "new_tokens")})}
