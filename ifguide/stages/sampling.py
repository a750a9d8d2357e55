"""What a model writes after the prompts of queries: what some methods learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ifguide.checks import argument
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.documents import Prompt
from ifguide.cost import FLOAT, CorpusSize, Work, generating, shape_of
from ifguide.decoding import Nucleus
from ifguide.decoding.generation import GENERATIONS_FILE, continue_prompts, decode_continuations, save_generations
from ifguide.methods.samples import SAMPLES_FILE, Sampling, save_samples
from ifguide.models import ModelSettings
from ifguide.opening import check_new_tokens
from ifguide.processes import Processes
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.trainer import TrainerSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples(Stage):
    """Continuations by a model, as tokens and as texts; a classifier judges them as it judges generations.

    Attributes:
        data: the corpus, for its tokenizer.
        model: who writes.
        sampling: how often and how far each prompt is continued.
        prompts: of the queries.
        loading, trainer: how and where the model is loaded.
    """

    name: ClassVar[str] = "samples"
    version: ClassVar[int] = 1
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    model: Stage = made_from()
    sampling: Sampling = setting()
    prompts: Sequence[Prompt] = setting()
    loading: ModelSettings = speed()
    trainer: TrainerSettings = speed()

    def check_corpus(self, corpus: Corpus) -> None:
        config = self.loading.config(corpus.vocabulary, corpus.end_of_text)
        with argument("sampling"):
            check_new_tokens(config, self.sampling.max_new_tokens)

    @property
    def texts(self) -> int:
        return len(self.prompts) * self.sampling.samples

    @property
    def new_tokens(self) -> int:
        """Of a continuation, at most."""
        return self.sampling.max_new_tokens

    def work(self, corpus: CorpusSize) -> Work:
        sampling, count = self.sampling, len(self.prompts)
        texts = corpus.tokens_of(prompt.text for prompt in self.prompts)
        found = generating(
            shape_of(self.loading, corpus.vocabulary), prompts=count, samples=sampling.samples,
            new=sampling.max_new_tokens, length=texts / count, rows=sampling.rows, setting="sampling.rows",
            decoder=Nucleus(top_p=sampling.top_p),
        )  # fmt: skip
        written = self.texts * sampling.max_new_tokens
        return replace(found, disk=written * (2 * FLOAT + corpus.characters))

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        return self.trainer.on_all_devices(lambda processes: self.sample(folder, inputs, processes))

    def sample(self, folder: Path, inputs: Inputs, processes: Processes) -> Mapping[str, Any]:
        tokenizer, sampling = inputs.corpus().tokenizer, self.sampling
        model = self.loading.load(inputs["model"], processes.device)
        prompts, tokens = continue_prompts(
            model, tokenizer, self.prompts, decoder=Nucleus(top_p=sampling.top_p), samples=sampling.samples,
            max_new_tokens=sampling.max_new_tokens, rows=sampling.rows, seed=sampling.seed,
            processes=processes,
        )  # fmt: skip
        if processes.is_first:
            save_samples(folder / SAMPLES_FILE, prompts, tokens)
            save_generations(folder / GENERATIONS_FILE, self.prompts, decode_continuations(prompts, tokens, tokenizer))
        return {"prompts": len(prompts), "samples": sampling.samples}
