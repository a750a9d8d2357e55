"""What a model writes: prompts → sampled continuations."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ifguide.checks import argument
from ifguide.corpus.blocks import Corpus
from ifguide.cost import CorpusSize, Work, generating, shape_of
from ifguide.decoding import Decoding, ModelDecoding, Nucleus
from ifguide.decoding.generation import GENERATIONS_FILE, continue_prompts, decode_continuations, save_generations
from ifguide.decoding.loading import load_with_decoder
from ifguide.evaluation.task import Continuations
from ifguide.hardware import AUTO
from ifguide.inference import check_dtype
from ifguide.models import ModelSettings
from ifguide.opening import check_new_tokens
from ifguide.processes import Processes
from ifguide.stages.stage import Inputs, Stage, late_setting, made_from, setting, speed
from ifguide.training.trainer import TrainerSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Generations(Stage):
    """Continuations of the prompts of a task.

    Attributes:
        data: the corpus, for its tokenizer.
        model: who writes.
        auxiliaries: role → model that the decoder reads.
        task: the prompts, and how often and how far they are continued.
        decoding: the decoder.
        seed: of the sampling.
        dtype: of the models, as in `ifguide.inference.load_for_inference`; auxiliary ones follow the model.
        loading, auxiliary_loading: how the model and the auxiliary models are loaded.
        trainer: the devices on which it generates.
    """

    name: ClassVar[str] = "generations"
    version: ClassVar[int] = 3
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    model: Stage = made_from()
    auxiliaries: Mapping[str, Stage] = made_from({})
    task: Continuations = setting()
    decoding: Decoding = setting()
    seed: int = setting()
    dtype: str = late_setting(AUTO)
    loading: ModelSettings = speed()
    auxiliary_loading: ModelSettings = speed()
    trainer: TrainerSettings = speed()

    def check(self) -> None:
        check_dtype(self.dtype)
        ends = sum(prompt.text != prompt.text.rstrip(" ") for prompt in self.task.prompts)
        if ends:
            log.warning(
                "%d of %d prompts end in a blank, which most tokenizers write as a token that seldom stands there: "
                "continuations are then likelier to be odd. Without it, they bring their own",
                ends, len(self.task.prompts),
            )  # fmt: skip

    def check_corpus(self, corpus: Corpus) -> None:
        config = self.loading.config(corpus.vocabulary, corpus.end_of_text)
        with argument("task"):
            check_new_tokens(config, self.task.max_new_tokens)
        if isinstance(self.decoding, ModelDecoding):
            with argument("decoding"):
                self.decoding.check_model(config)

    @property
    def texts(self) -> int:
        return len(self.task.prompts) * self.task.samples

    def work(self, corpus: CorpusSize) -> Work:
        task = self.task
        texts = corpus.tokens_of(prompt.text for prompt in task.prompts)
        others = [shape_of(self.auxiliary_loading, corpus.vocabulary)] * len(self.auxiliaries)
        found = generating(
            shape_of(self.loading, corpus.vocabulary), prompts=len(task.prompts), samples=task.samples,
            new=task.max_new_tokens, length=texts / len(task.prompts), rows=task.rows, setting="task.rows",
            decoder=self.decoding if isinstance(self.decoding, Nucleus) else None, auxiliaries=others, dtype=self.dtype,
        )  # fmt: skip
        written = self.texts * task.max_new_tokens
        return replace(found, disk=corpus.characters * (written + texts))

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        return self.trainer.on_all_devices(lambda processes: self.generate(folder, inputs, processes))

    def generate(self, folder: Path, inputs: Inputs, processes: Processes) -> Mapping[str, Any]:
        corpus, task = inputs.corpus(), self.task
        tokenizer, read = corpus.tokenizer, (inputs.each("auxiliaries"), self.auxiliary_loading)
        model, decoder, facts = load_with_decoder(
            self.loading, inputs["model"], self.decoding, *read, corpus=corpus, dtype=self.dtype,
            device=processes.device,
        )  # fmt: skip
        prompts, tokens = continue_prompts(
            model, tokenizer, task.prompts, decoder=decoder, samples=task.samples, max_new_tokens=task.max_new_tokens,
            rows=task.rows, seed=self.seed, processes=processes,
        )  # fmt: skip
        if processes.is_first:
            save_generations(folder / GENERATIONS_FILE, task.prompts, decode_continuations(prompts, tokens, tokenizer))
        return facts
