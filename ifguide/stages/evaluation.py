"""Measurements: each is an artifact of its own, and `Evaluation` joins them.

A further task, classifier or utility adds its measurement and leaves the others as they are.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ifguide.checks import argument, check_whole_number
from ifguide.classifiers.base import PROBABILITIES_FILE, TOXICITY, ClassifierSettings, SharedClassifier
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.documents import Query
from ifguide.corpus.masks import MASK_FILE, TokenMask
from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.corpus.words import word_log_odds
from ifguide.cost import SECONDS_PER_TEXT, CorpusSize, Work, lacking
from ifguide.decoding.generation import GENERATIONS_FILE, load_generations
from ifguide.evaluation.attribution import attribution_metrics, known_tokens, word_list_scores
from ifguide.evaluation.fluency import (
    Metrics,
    UnitLosses,
    distinct_metrics,
    generation_perplexity,
)
from ifguide.evaluation.task import METRICS_FILE, merge_metrics
from ifguide.evaluation.toxicity import classify_continuations, toxicity_metrics
from ifguide.influence.store import open_scores
from ifguide.models import ModelSettings, load_model
from ifguide.opening import check_pretrained, loading
from ifguide.processes import Processes
from ifguide.stages import findings
from ifguide.stages.stage import Inputs, Stage, late_setting, made_from, setting, speed
from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import global_rank, read_json, read_manifest, write_json

ATTRIBUTION = 7e-6  # seconds for each token of an annotated corpus


@dataclass(frozen=True, kw_only=True, eq=False)
class Toxicity(Stage):
    """What a classifier makes of the generations of a task."""

    name: ClassVar[str] = "toxicity"
    version: ClassVar[int] = 2
    collective: ClassVar[bool] = True

    generations: Stage = made_from()
    classifier: Stage = made_from()
    judge: ClassifierSettings = speed()
    trainer: TrainerSettings = speed()

    def work(self, corpus: CorpusSize) -> Work:
        texts = int(getattr(self.generations, "texts", 0))
        return Work(seconds=SECONDS_PER_TEXT * texts, disk=8.0 * texts, lacking=lacking(self.judge))

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        rows = load_generations(inputs["generations"] / GENERATIONS_FILE)

        def classify(processes: Processes) -> dict[str, NDArray[np.float64]]:
            classifier = SharedClassifier.load(self.judge, inputs["classifier"], processes)
            return classify_continuations(rows["continuations"], classifier)

        scores = self.trainer.on_all_devices(classify)
        if global_rank() > 0:
            return {}
        np.savez(folder / PROBABILITIES_FILE, **scores)  # type: ignore[arg-type]
        write_json(folder / METRICS_FILE, toxicity_metrics(scores, rows["subset"]))
        return findings.of_judged(scores[TOXICITY])


@dataclass(frozen=True, kw_only=True, eq=False)
class Fluency(Stage):
    """How varied, and how likely under a reference model, the generations of a task are.

    Attributes:
        generations: what was written.
        pretrained: Hugging Face folder of the reference model; None: no perplexity of generations.
        trainer, batch_size: where it is computed, and texts at a time.
    """

    name: ClassVar[str] = "fluency"
    version: ClassVar[int] = 2
    collective: ClassVar[bool] = True

    generations: Stage = made_from()
    pretrained: str | None = late_setting(None)
    trainer: TrainerSettings = speed()
    batch_size: int = speed()

    def check(self) -> None:
        check_whole_number("batch_size", self.batch_size, least=1)
        if self.pretrained is not None:
            check_pretrained(self.pretrained, "pretrained")
            with loading(f"pretrained={self.pretrained}: its tokenizer"):
                make_tokenizer((), path=self.pretrained)

    def work(self, corpus: CorpusSize) -> Work:
        """The reference model is not counted."""
        return Work(seconds=1.0, disk=1200.0, lacking=self.pretrained and "the reference model")

    def build(self, folder: Path, inputs: Inputs) -> None:
        rows = load_generations(inputs["generations"] / GENERATIONS_FILE)
        parts, path = [distinct_metrics(rows["continuations"], rows["subset"])], self.pretrained
        if path is not None:

            def likelihoods(processes: Processes) -> tuple[Metrics, UnitLosses]:
                model: Any = load_model(path).to(processes.device)  # type: ignore[arg-type]
                read = model, make_tokenizer((), path=path), rows["prompt"], rows["continuations"], rows["subset"]
                return generation_perplexity(*read, batch_size=self.batch_size, processes=processes)

            found, losses = self.trainer.on_all_devices(likelihoods)
            parts.append(found)
            if global_rank() == 0:
                losses.save(folder)
        if global_rank() == 0:
            write_json(folder / METRICS_FILE, merge_metrics([("", part) for part in parts])[""])


@dataclass(frozen=True, kw_only=True, eq=False)
class Utility(Stage):
    """What else a model can do.

    Attributes:
        data: the corpus, for its tokenizer.
        model: the model, without any decoder that steers it.
        utility: (model, tokenizer) → subset → metric → value; one that has a `judge` is given the classifier, too. One
            that has a `check` says there what it refuses beside a tokenizer and a model's configuration.
        classifier, judge: of the classifier where there is one, its artifact and what loads it.
        loading, trainer: how and where the model is loaded.
    """

    name: ClassVar[str] = "utility"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    model: Stage = made_from()
    utility: Callable[..., Mapping[str, Mapping[str, Any]]] = setting()
    classifier: Stage | None = made_from(None)
    judge: ClassifierSettings | None = speed(None)
    loading: ModelSettings = speed()
    trainer: TrainerSettings = speed()

    def check_corpus(self, corpus: Corpus) -> None:
        if (check := getattr(self.utility, "check", None)) is not None:
            with argument("utility"):
                check(corpus.tokenizer, self.loading.config(corpus.vocabulary, corpus.end_of_text))

    def work(self, corpus: CorpusSize) -> Work:
        return Work(seconds=1.0, disk=1200.0, lacking="what it asks of the model")

    def build(self, folder: Path, inputs: Inputs) -> None:
        model = self.loading.load(inputs["model"], self.trainer.device)
        judges = [] if self.judge is None else [self.judge.load(inputs["classifier"], self.trainer.device)]
        write_json(folder / METRICS_FILE, self.utility(model, inputs.corpus().tokenizer, *judges))


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution(Stage):
    """Scores of a behaviour, and the mask, against annotated tokens; empty where the corpus has none.

    Attributes:
        data, scores, mask: of the training split; the scores are what was selected from.
        queries: of the behaviour; a list of words learned from them is the baseline.
    """

    name: ClassVar[str] = "attribution"
    version: ClassVar[int] = 2

    data: Stage = made_from()
    scores: Stage = made_from()
    mask: Stage = made_from()
    queries: Sequence[Query] = setting()

    def work(self, corpus: CorpusSize) -> Work:
        return Work(seconds=ATTRIBUTION * corpus.tokens("train") * corpus.annotated, disk=700.0)

    def build(self, folder: Path, inputs: Inputs) -> None:
        corpus = inputs.corpus()
        split = corpus.split("train")
        metrics: dict[str, Any] = {}
        if split.annotation is not None and split.annotation.count():
            words = word_list_scores(split, corpus.tokenizer, word_log_odds(self.queries))
            mask = TokenMask.open(inputs["mask"] / MASK_FILE, split.block_length)
            scores = open_scores(inputs["scores"])[0]
            annotated = split.annotation[:]
            metrics["all"] = attribution_metrics(scores, mask[:], annotated, known_tokens(split), words)
        write_json(folder / METRICS_FILE, metrics)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation(Stage):
    """All measurements of a row in one `metrics.json`, with the classifiers' probabilities beside it.

    Attributes:
        toxicity: name in the metrics → what a classifier makes of the generations of a task.
        fluency: task → how varied its generations are.
        others: name in the metrics → any other measurement.
        filtered: what a filter left, for the metrics `filter`.
    """

    name: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 3

    toxicity: Mapping[str, Stage] = made_from()
    fluency: Mapping[str, Stage] = made_from()
    others: Mapping[str, Stage] = made_from()
    filtered: Stage | None = made_from(None)

    def work(self, corpus: CorpusSize) -> Work:
        return Work()

    def build(self, folder: Path, inputs: Inputs) -> None:
        toxicity = inputs.each("toxicity")
        parts = [*toxicity.items(), *inputs.each("fluency").items(), *inputs.each("others").items()]
        metrics = merge_metrics([(name, read_metrics(part)) for name, part in parts])
        if "filtered" in inputs:
            metrics["filter"] = read_manifest(inputs["filtered"])["facts"]["filter"]
        write_json(folder / METRICS_FILE, metrics)
        for name, part in toxicity.items():
            shutil.copyfile(part / PROBABILITIES_FILE, folder / f"probabilities-{name}.npz")


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics of a built measurement."""
    metrics: dict[str, Any] = read_json(folder / METRICS_FILE)
    return metrics
