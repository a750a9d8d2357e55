"""What experiments on scores share: a corpus with its proxy, and the scores that variants of the method and simpler
means give its tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ifguide.corpus.blocks import Corpus, Split
from ifguide.corpus.documents import Query
from ifguide.corpus.masks import MASK_FILE, TokenMask
from ifguide.corpus.queries import encode_queries
from ifguide.evaluation.attribution import attribution_quality, difference_of, known_tokens, quality_draws
from ifguide.evaluation.likelihood import continuation_likelihoods
from ifguide.evaluation.token_baselines import LEXICAL, lexical_scores, token_baselines
from ifguide.influence.direction import load_direction
from ifguide.influence.scoring import BlockSampler, prepare_scorer, score_blocks
from ifguide.influence.store import create_scores, open_scores
from ifguide.models import ModelSettings
from ifguide.objectives import LanguageModeling, SuppressedLanguageModeling
from ifguide.report.experiment import Experiment
from ifguide.report.gather import Run
from ifguide.stages.classifiers import FittedClassifier
from ifguide.stages.configuration import make, saved
from ifguide.stages.stage import Existing, Inputs, Stage, made_from, setting, speed
from ifguide.training.context import TrainingContext
from ifguide.training.fit import train
from ifguide.training.optimization import Optimization
from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import Artifact, Workspace, read_manifest

Scores = NDArray[np.float32]
LOSSES_FILE = "losses.npy"  # [queries]


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline(Stage):
    """Scores of all training tokens by other means than influence."""

    name: ClassVar[str] = "baseline"
    version: ClassVar[int] = 2

    data: Stage = made_from()
    proxy: Stage = made_from()
    means: str = setting()
    queries: Sequence[Query] = setting()
    compute: Callable[[], Scores] = speed()

    def build(self, folder: Path, inputs: Inputs) -> None:
        with create_scores(folder, (1, *inputs.corpus().split("train").shape)) as scores:
            scores[0] = self.compute()


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryLosses(Stage):
    """What queries cost a model that was trained on some blocks, or without the loss of some tokens; it is not kept."""

    name: ClassVar[str] = "query_losses"
    version: ClassVar[int] = 1

    data: Stage = made_from()
    start: Stage | None = made_from(None)  # None: trained from nothing
    mask: Stage | None = made_from(None)  # whose tokens are read and not learned
    model: ModelSettings = setting()
    optim: Optimization = setting()
    queries: Sequence[Query] = setting()
    seed: int = setting()
    blocks: str = setting("all")  # says which the rows are
    rows: NDArray[np.int64] | None = speed(None)  # of the blocks; None: all
    trainer: TrainerSettings = speed()

    def build(self, folder: Path, inputs: Inputs) -> None:
        corpus = inputs.corpus()
        split = corpus.split("train")
        if self.start is None:
            model = self.model.build(corpus.vocabulary, corpus.end_of_text)
        else:
            model = self.model.load(inputs["start"])
        mask = None if self.mask is None else TokenMask.open(inputs["mask"] / MASK_FILE, split.block_length)
        rows = split if self.rows is None else Split(split.blocks.select(self.rows), split.documents, None)
        train(
            model, SuppressedLanguageModeling(penalty=0.0) if mask else LanguageModeling(), self.optim,
            TrainingContext(self.trainer, folder), seed=self.seed, blocks=rows, mask=mask, validation=None,
        )  # fmt: skip
        encoded = encode_queries(self.queries, corpus.tokenizer, split.block_length, model.config)
        np.save(
            folder / LOSSES_FILE, continuation_likelihoods(model, encoded, batch_size=64, description="Queries").losses
        )


def built(stage: Stage, workspace: Workspace) -> Artifact:
    """The artifact of a stage, with all that it is made from."""
    return stage.make(workspace, {key: built(child, workspace) for key, child in stage.inputs.items()})


class Study:
    """One corpus with its proxy: the scores of every variant and baseline, and their quality.

    Args:
        experiment: that runs are launched by.
        part: name of their folder.
        variants: name → overrides; the corpus and the proxy are those of the first.
        overrides: of all of them.
    """

    def __init__(
        self, experiment: Experiment, part: str, variants: Mapping[str, Sequence[str]], *overrides: str
    ) -> None:
        self.experiment = experiment
        self.runs: dict[str, Run] = {
            name: experiment.run(f"{part}/{index}", "stage=mask", *overrides, *given)
            for index, (name, given) in enumerate(variants.items())
        }
        self.base = next(iter(self.runs.values()))
        self.workspace = Workspace(self.base.artifacts["data"].parent)
        self.corpus = Corpus(self.base.artifacts["data"])
        self.split, self.tokenizer = self.corpus.split("train"), self.corpus.tokenizer
        assert self.split.annotation is not None
        self.annotation = self.split.annotation[:]
        self.queries: list[Query] = self.part("behaviours.toxicity")

    def configuration(self, name: str | None = None) -> Any:
        run = self.base if name is None else self.runs[name]
        return saved(Path(run.place))

    def part(self, key: str, name: str | None = None) -> Any:
        """What the configuration of a variant has under a key, made."""
        return make(self.configuration(name), key)

    def existing(self, role: str, stage: str) -> Existing:
        return Existing(folder=self.base.artifacts[role], stage=stage)

    def build(self, stage: Stage) -> Artifact:
        """The artifact of a stage, with all that it is made from."""
        made = built(stage, self.workspace)
        self.experiment.note([made.path])
        return made

    def proxy(self) -> Any:
        return self.part("proxy").load(self.base.artifacts["proxy"])

    def classifier(self) -> Any:
        settings = self.part("classifiers.toxicity")
        return settings.load(self.build(FittedClassifier(classifier=settings)).path, "cpu")

    def scores(self, name: str) -> Scores:
        made = self.runs[name].artifacts
        return _opened(made.get("pooled", made["scores"]))

    def share(self, name: str) -> float | None:
        """Of the blocks that a variant scores exactly; None for other means."""
        return (self.runs[name].config["student"] or {}).get("share", 1.0) if name in self.runs else None

    def held_out(self) -> dict[str, Any]:
        """Variant with a student → what that explains of blocks that it never saw, and what its floors do."""
        made = {name: run.artifacts.get("student") for name, run in self.runs.items()}
        return {name: read_manifest(folder)["facts"]["held_out"] for name, folder in made.items() if folder}

    def direction(self, name: str) -> Path:
        """The direction that a variant scores along, refined where it is."""
        made = self.runs[name].artifacts
        return made.get("refined_direction.toxicity", made["direction.toxicity"])

    def score_text(self, name: str, ids: NDArray[np.int64]) -> Scores:
        """Scores of other blocks, [B, T], with what the variant's scores were made with."""
        made = self.runs[name].artifacts
        if "student" in made:
            student = self.part("student", name).student.load(made["student"])
            found: Scores = student.scores(torch.from_numpy(ids))[0].numpy()
            return found
        model = self.proxy()
        direction = load_direction(self.direction(name), model)
        scorer = prepare_scorer(self.part("scorer", name), model, [direction], BlockSampler(ids.__getitem__, ids.shape))
        found = score_blocks(scorer, ids, batch_size=64, device=model.device)[0]
        return found

    def text_sums(
        self, names: Sequence[str], ids: NDArray[np.int64], inside: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        """Variant → sums of the scores of texts (`encode`), [texts]."""
        return {name: (self.score_text(name, ids) * inside).sum(1) for name in names}

    def mask(self, name: str) -> TokenMask:
        return TokenMask.open(self.runs[name].artifacts["mask"] / MASK_FILE, self.split.block_length)

    def baseline(self, means: str, compute: Callable[[], Scores]) -> Artifact:
        """Scores by other means, kept in the workspace as those of the variants are."""
        data, proxy = self.existing("data", "data"), self.existing("proxy", "model")
        return self.build(Baseline(data=data, proxy=proxy, means=means, queries=self.queries, compute=compute))

    def baselines(self) -> dict[str, Scores]:
        corpus, batch = (self.split, self.tokenizer, self.queries), self.part("influence").batch_size
        return self._kept(token_baselines(self.proxy(), *corpus, self.classifier(), batch_size=batch))

    def lexical_baselines(self) -> dict[str, Scores]:
        """Those that count words or tokens."""
        return self._kept(lexical_scores(self.split, self.tokenizer, self.queries))

    def _kept(self, means: Mapping[str, Callable[[], Scores]]) -> dict[str, Scores]:
        return {name: _opened(self.baseline(name, compute).path) for name, compute in means.items()}

    def query_losses(self, queries: Sequence[Query], **fields: Any) -> NDArray[np.float64]:
        """`QueryLosses`, one of each query, in nats per continuation."""
        shared = {"data": self.existing("data", "data"), "queries": queries, "trainer": self.part("trainer")}
        losses: NDArray[np.float64] = np.load(self.build(QueryLosses(**shared, **fields)).path / LOSSES_FILE)
        return losses

    def quality(self, scores: Scores, source: str | None = None) -> dict[str, Any]:
        """Against the spans of one source of posts, or of all."""
        number = None if source is None else self.corpus.sources.index(source)
        return attribution_quality(scores, self.annotation, known_tokens(self.split, number))

    def differences(
        self, scores: Mapping[str, Scores], references: Sequence[str], source: str | None = None
    ) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Reference → lexical baseline → quality of the baseline less that of the reference (`quality_difference`)."""
        known = known_tokens(self.split, None if source is None else self.corpus.sources.index(source))
        draws = {name: quality_draws(scores[name], self.annotation, known) for name in (*LEXICAL, *references)}
        return {
            reference: {name: difference_of(draws[name], draws[reference]) for name in LEXICAL}
            for reference in references
        }

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_], list[Any]]:
        """Texts as blocks of their own: ids and what of them is text, [texts, T], and the tokenizer's encodings."""
        encodings = self.tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
        width = 1 + max(len(encoding.ids) for encoding in encodings)
        ids = np.full((len(texts), width), self.tokenizer.eos_token_id, dtype=np.int64)
        inside = np.zeros(ids.shape, dtype=bool)
        for row, encoding in enumerate(encodings):
            ids[row, 1 : 1 + len(encoding.ids)] = encoding.ids
            inside[row, 1 : 1 + len(encoding.ids)] = True
        return ids, inside, encodings


def _opened(folder: Path) -> Scores:
    """Scores of the one behaviour, memory-mapped."""
    scores: Scores = open_scores(folder)[0]
    return scores
