"""Models that a decoder reads beside the one that generates, and what happens to a model after its training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ifguide.checks import argument
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.documents import LabelledText, Pair
from ifguide.corpus.pairs import check_pairs, encode_pairs
from ifguide.cost import MICRO, CorpusSize, Memory, Work, reading, shape_of, training
from ifguide.methods.dpo import DPO, reference_log_probabilities
from ifguide.models import ModelSettings
from ifguide.opening import check_context, check_pretrained
from ifguide.processes import Processes
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.auxiliary import LabelledAuxiliary
from ifguide.training.context import TrainingSetup, save_trained
from ifguide.training.optimization import Optimization
from ifguide.workspace import describe, global_rank

REFERENCE_FILE = "reference.npy"  # [pairs, 2]: log-probabilities of the chosen and of the rejected response


@dataclass(frozen=True, kw_only=True, eq=False)
class AuxiliaryModel(Stage):
    """What a decoder reads: a reward model, an expert, a steering vector.

    Attributes:
        data: the corpus, for its tokenizer and block length.
        start: the model that it continues; None: the one that `training.pretrained` names.
        training: its settings.
        labelled: what it learns from.
        precision: of the trainer.
        loading: how the model that it continues is loaded.
        setup: where it is computed, and who watches.
    """

    name: ClassVar[str] = "auxiliary"
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    start: Stage | None = made_from(None)
    training: LabelledAuxiliary = setting()
    labelled: Sequence[LabelledText] = setting()
    precision: str = setting()
    loading: ModelSettings = speed()
    setup: TrainingSetup = speed()

    def derived_settings(self) -> dict[str, Any]:
        batch_size, start = self.training.batch_size, self.training.pretrained
        split = {} if batch_size is None else self.setup.micro_batches(batch_size)
        model = self.loading if start is None else replace(self.loading, pretrained=start)
        return split if split and model.has_dropout else {}

    def check(self) -> None:
        if self.training.batch_size is not None:
            with argument("training.optim"):
                self.setup.trainer.accumulate(self.training.batch_size)
        check_pretrained(self.training.pretrained, "training.pretrained")
        with argument("training"):
            self.training.check(self.labelled)

    def check_corpus(self, corpus: Corpus) -> None:
        with argument("training"):
            self.training.check_corpus(self.labelled, corpus.tokenizer, corpus.info["block_length"])

    def work(self, corpus: CorpusSize) -> Work | None:
        """None of what is not optimised."""
        optim: Optimization | None = getattr(self.training, "optim", None)
        if optim is None:
            return None
        tokens = corpus.tokens_of(one.text for one in self.labelled) / max(1, len(self.labelled))
        start = self.training.pretrained
        model = self.loading if start is None else replace(self.loading, pretrained=start)
        return training(
            shape_of(model, corpus.vocabulary), self.setup.trainer, batch_size=optim.batch_size,
            steps=optim.expected_steps(len(self.labelled)),
            length=max(2, min(corpus.block_length, round(tokens))), vocabulary=corpus.vocabulary,
        )  # fmt: skip

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        return self.training.train(
            self.training.pretrained or inputs["start"],
            self.labelled,
            tokenizer=corpus.tokenizer,
            block_length=corpus.info["block_length"],
            context=self.setup.within(folder),
            options=self.loading.load_options,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference(Stage):
    """What the model before post-training makes of the pairs.

    Attributes:
        data: the corpus, for its tokenizer.
        model: the model.
        pairs: preference pairs, cut to `max_length` tokens.
        precision: of the trainer.
        loading, setup: as in `AuxiliaryModel`.
    """

    name: ClassVar[str] = "reference"
    version: ClassVar[int] = 3
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    model: Stage = made_from()
    pairs: Sequence[Pair] = setting()
    max_length: int = setting()
    precision: str = setting()
    loading: ModelSettings = speed()
    setup: TrainingSetup = speed()

    def work(self, corpus: CorpusSize) -> Work:
        micro = self.setup.trainer.micro_batch_size
        found = reading(
            shape_of(self.loading, corpus.vocabulary), batch_size=2 * micro, count=2 * len(self.pairs), setting=None,
            length=min(self.max_length, mean_length(self.pairs, corpus)),
        )  # fmt: skip
        return replace(found, memory=Memory(found.memory.fixed, 2 * found.memory.each, micro, MICRO))

    def build(self, folder: Path, inputs: Inputs) -> None:
        trainer, tokenizer = self.setup.trainer, inputs.corpus().tokenizer

        def read(processes: Processes) -> NDArray[np.float32]:
            model = self.loading.load(inputs["model"], processes.device)
            return reference_log_probabilities(
                model,
                encode_pairs(self.pairs, tokenizer, self.max_length, model.config),
                batch_size=trainer.micro_batch_size,
                precision=trainer.precision,
                fused=trainer.fused_loss,
                processes=processes,
            )

        found = trainer.on_all_devices(read)
        if global_rank() == 0:
            np.save(folder / REFERENCE_FILE, found)


@dataclass(frozen=True, kw_only=True, eq=False)
class PostTrained(Stage):
    """A trained model after post-training: a Hugging Face folder.

    Attributes:
        data: the corpus, for its tokenizer.
        model: what is trained further.
        reference: what that makes of the pairs; None where its settings need none.
        post_training: its settings.
        pairs: preference pairs; where there is a reference, they decide it, and so this.
        loading, setup: as in `AuxiliaryModel`.
    """

    name: ClassVar[str] = "model"
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    model: Stage = made_from()
    reference: Stage | None = made_from(None)
    post_training: DPO = setting()
    pairs: Sequence[Pair] = speed()
    loading: ModelSettings = speed()
    setup: TrainingSetup = speed()

    def derived_settings(self) -> dict[str, Any]:
        if self.reference is not None:
            return {}
        return {"pairs": describe(self.pairs), "precision": self.setup.trainer.precision}

    def check(self) -> None:
        with argument("post_training.optim"):
            self.setup.trainer.accumulate(self.post_training.optim.batch_size)
        check_pairs(self.pairs)

    def check_corpus(self, corpus: Corpus) -> None:
        longest = self.post_training.max_length
        config = self.loading.config(corpus.vocabulary, corpus.end_of_text)
        check_context(config, longest, "post_training.max_length")
        with argument("post_training"):
            self.post_training.check(encode_pairs(self.pairs, corpus.tokenizer, longest, config))

    def work(self, corpus: CorpusSize) -> Work:
        """Without an early end: at most. A pair is two sequences; KL reads them with the reference, too."""
        optim = self.post_training.optim
        length = max(2, round(min(self.post_training.max_length, mean_length(self.pairs, corpus))))
        return training(
            shape_of(self.loading, corpus.vocabulary), self.setup.trainer, batch_size=2 * optim.batch_size,
            steps=optim.expected_steps(len(self.pairs)), length=length, vocabulary=corpus.vocabulary,
            shares=True,
        )  # fmt: skip

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        policy, tokenizer = self.loading.load(inputs["model"]), inputs.corpus().tokenizer
        facts = self.post_training.train(
            policy,
            self.loading.load(inputs["model"]) if self.post_training.kl else None,
            encode_pairs(self.pairs, tokenizer, self.post_training.max_length, policy.config),
            np.load(inputs["reference"] / REFERENCE_FILE) if "reference" in inputs else None,
            self.setup.within(folder),
        )
        save_trained(policy, tokenizer, folder)
        return facts


def mean_length(pairs: Sequence[Pair], corpus: CorpusSize) -> float:
    """Tokens of a prompt with one of its responses, on average."""
    texts = (f"{pair.prompt}{text}" for pair in pairs for text in (pair.chosen, pair.rejected))
    return corpus.tokens_of(texts) / max(1, 2 * len(pairs))
