"""Models that are trained on blocks: the proxy, the uncensored model, the target."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import nn

from ifguide.checks import argument
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.masks import MASK_FILE, TokenMask
from ifguide.corpus.tokenizers import check_same_tokenizer
from ifguide.cost import CorpusSize, Work, shape_of, training
from ifguide.influence.chain import InfluenceSettings
from ifguide.methods.conditional import add_control_tokens
from ifguide.models import ModelSettings
from ifguide.opening import check_context
from ifguide.stages.stage import Inputs, Stage, late_setting, made_from, setting, speed
from ifguide.training.context import TrainingSetup, save_trained
from ifguide.training.fit import train
from ifguide.training.optimization import Optimization
from ifguide.training.strategies import shares_weights


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel(Stage):
    """A causal language model trained, or trained further, on the blocks of a corpus: a Hugging Face folder.

    Attributes:
        data: the corpus; validation is always on its own.
        filtered: what a filter left of it, to train on instead.
        mask: of the blocks that are trained on, for objectives that use one.
        model: what is built, or continued.
        optim: optimiser, schedule, batch size and epochs.
        objective: the loss.
        precision: of the trainer; it decides the numbers.
        recorders: name → callback that adds files to the model's folder.
        setup: where it is computed, and who watches.
    """

    name: ClassVar[str] = "model"
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    filtered: Stage | None = made_from(None)
    mask: Stage | None = made_from(None)
    model: ModelSettings = setting()
    optim: Optimization = setting()
    objective: nn.Module = setting()
    precision: str = setting()
    recorders: Mapping[str, pl.Callback] = late_setting({})
    setup: TrainingSetup = speed()

    def derived_settings(self) -> dict[str, Any]:
        split = self.setup.micro_batches(self.optim.batch_size)
        return split if split and self.model.has_dropout else {}

    def check(self) -> None:
        with argument("optim"):
            self.setup.trainer.accumulate(self.optim.batch_size)
        for name, recorder in self.recorders.items():
            strategy = self.setup.trainer.strategy
            if getattr(recorder, "reads_whole_model", False) and shares_weights(strategy):
                raise ValueError(
                    f"trainer.strategy={strategy}: callbacks.{name} reads the whole model while it is trained; use ddp"
                )
        self.model.check("model")
        if self.optim.epochs == 0 and self.model.pretrained is None:
            raise ValueError("optim.epochs=0: nothing is trained; name a model to keep as it is in `pretrained`")

    def check_corpus(self, corpus: Corpus) -> None:
        with argument("model"):
            check_same_tokenizer(self.model.pretrained, corpus.tokenizer)
        config = self.model.config(corpus.vocabulary, corpus.end_of_text)
        check_context(config, corpus.info["block_length"])
        if (check := getattr(self.objective, "check", None)) is not None:
            with argument("objective"):
                check(config.get_text_config().vocab_size)

    def work(self, corpus: CorpusSize) -> Work:
        """On the whole corpus; where a filter leaves less of it, at most."""
        batch, blocks = self.optim.batch_size, corpus.blocks
        return training(
            shape_of(self.model, corpus.vocabulary), self.setup.trainer, batch_size=batch,
            steps=self.optim.expected_steps(blocks["train"]), length=corpus.block_length,
            validation=blocks["validation"], vocabulary=corpus.vocabulary, shares=True,
        )  # fmt: skip

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        tokenizer, model = corpus.tokenizer, self.model.build(corpus.text_vocabulary, corpus.end_of_text)
        if corpus.control_tokens:
            add_control_tokens(model, corpus.control_tokens, vocabulary=corpus.text_vocabulary)
        blocks = inputs.corpus("filtered" if "filtered" in inputs else "data").split("train")
        facts = train(
            model,
            self.objective,
            self.optim,
            self.setup.within(folder, self.recorders.values()),
            blocks=blocks,
            mask=TokenMask.open(inputs["mask"] / MASK_FILE, blocks.block_length) if "mask" in inputs else None,
            validation=corpus.split("validation"),
            seed=self.model.seed,
            tokenizer=tokenizer,
        )
        facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        save_trained(model, tokenizer, folder)
        return facts


@dataclass(frozen=True, kw_only=True, eq=False)
class Proxy(TrainedModel):
    """The model whose gradients are taken; its artifact is that of any model of the same settings.

    Attributes:
        influence: which of its layers influence tracks; it decides nothing here, and is checked.
    """

    influence: InfluenceSettings = speed()

    def check_corpus(self, corpus: Corpus) -> None:
        super().check_corpus(corpus)
        if self.model.pretrained is None:
            with torch.device("meta"):
                proxy = self.model.build(corpus.vocabulary, corpus.end_of_text)
            self.influence.layer_names(proxy)
