"""From the proxy to the mask: factors → direction → scores → pooled → mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.documents import Query
from ifguide.corpus.masks import MASK_FILE
from ifguide.corpus.queries import check_queries
from ifguide.corpus.tokenizers import token_texts
from ifguide.cost import FLOAT, PROCESS, CorpusSize, Memory, Work, shape_of
from ifguide.cost.influence import differentiating, fitting, scoring
from ifguide.hardware import AUTO, FLOAT32
from ifguide.influence.chain import (
    InfluenceSettings,
    Rule,
    direction_reliability,
    find_direction,
    fit_factors,
    select_behaviours,
)
from ifguide.influence.curvature import Curvature
from ifguide.influence.diagnostics import mask_shape, mean_loss, on_both_sides, unigram_loss
from ifguide.influence.direction import load_direction, save_direction
from ifguide.influence.factors import load_factors, save_factors
from ifguide.influence.low_precision import prepare_in
from ifguide.influence.per_block import check_called
from ifguide.influence.pooling import Pooling, pool_scores
from ifguide.influence.scorers import Scorer
from ifguide.influence.scorers.base import check_dtype
from ifguide.influence.scoring import BlockSampler, ScoringModule, fill_store, rows_of_share
from ifguide.influence.store import ScoreStore, open_scores
from ifguide.models import ModelSettings, untracked
from ifguide.processes import Processes
from ifguide.stages import findings
from ifguide.stages.stage import Inputs, Stage, late_setting, made_from, setting, speed
from ifguide.training.trainer import TrainerSettings

LOSS_TOKENS = 1 << 17  # of held-out text, at most, that tell what a proxy has learned

POOLING, POOLING_BYTES = 8e-7, 24.0  # seconds, and bytes of memory, for each token and behaviour
SELECTING = 2e-7  # seconds for each token and behaviour


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors(Stage):
    """The curvature of the proxy, fitted on a sample of training blocks.

    Attributes:
        curvature: strategy and number of blocks; its damping acts on directions only.
        proxy, data: what it is fitted on.
        influence: which layers, and which blocks; blocks at a time.
        loading, trainer: how the proxy is loaded, and where.
    """

    name: ClassVar[str] = "factors"
    version: ClassVar[int] = 2
    collective: ClassVar[bool] = True

    proxy: Stage = made_from()
    data: Stage = made_from()
    curvature: Curvature = speed()
    influence: InfluenceSettings = setting()
    loading: ModelSettings = speed()
    trainer: TrainerSettings = speed()

    def derived_settings(self) -> dict[str, Any]:
        return {"curvature": self.curvature.fitting}

    def check_corpus(self, corpus: Corpus) -> None:
        if self.curvature.strategy != "identity" and self.loading.pretrained is None:
            with torch.device("meta"):
                model = self.loading.build(corpus.vocabulary, corpus.end_of_text)
                check_called(model, self.influence.layer_names(model))

    def work(self, corpus: CorpusSize) -> Work:
        length, blocks = corpus.block_length, corpus.blocks
        return fitting(
            shape_of(self.loading, corpus.vocabulary), self.curvature, self.influence, length=length,
            blocks=min(self.curvature.blocks, blocks["train"]),
            held_out=min(blocks["validation"], max(1, LOSS_TOKENS // length)),
        )  # fmt: skip

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        return self.trainer.on_all_devices(lambda processes: self.fit(folder, inputs, processes))

    def fit(self, folder: Path, inputs: Inputs, processes: Processes) -> Mapping[str, Any]:
        model, corpus = self.loading.load(inputs["proxy"], processes.device), inputs.corpus()
        factors, blocks = fit_factors(
            model, corpus.split("train"), self.curvature, self.influence,
            progress=self.trainer.progress and processes.is_first, processes=processes,
        )  # fmt: skip
        if processes.is_first:
            save_factors(factors, folder)
        share, largest = untracked(model)
        learned = self.learned(model.eval(), corpus, processes, findings.of_share(share, largest))
        return {"blocks": blocks, "tracked_share": share, **learned}

    def learned(
        self, model: PreTrainedModel, corpus: Corpus, processes: Processes, *warnings: str | None
    ) -> Mapping[str, Any]:
        """What the proxy knows of held-out text, beside what counts of tokens know."""
        held_out = corpus.split("validation")
        if not len(held_out):
            return {findings.WARNINGS: [warning for warning in warnings if warning]}
        sample = BlockSampler(held_out.tokens, held_out.shape, self.influence.seed)(LOSS_TOKENS)
        loss = mean_loss(model, sample, batch_size=self.influence.batch_size, processes=processes)
        unigram = unigram_loss(corpus.split("train"), held_out, corpus.vocabulary)
        return {"validation_loss": loss, "unigram_loss": unigram, **findings.of_proxy(loss, unigram, *warnings)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Direction(Stage):
    """The direction of a behaviour (`ifguide.influence.direction`).

    Attributes:
        queries: of both classes, or of the toxic one alone.
        contrast: whether both classes are there.
        curvature: with its damping.
        proxy, data, factors, influence, loading, trainer: as in `Factors`.
    """

    name: ClassVar[str] = "direction"
    version: ClassVar[int] = 3
    collective: ClassVar[bool] = True

    proxy: Stage = made_from()
    data: Stage = made_from()
    factors: Stage = made_from()
    queries: Sequence[Query] = setting()
    contrast: bool = speed(True)
    curvature: Curvature = setting()
    influence: InfluenceSettings = speed()
    loading: ModelSettings = speed()
    trainer: TrainerSettings = speed()

    def derived_settings(self) -> dict[str, Any]:
        return self.influence.rounding

    def check(self) -> None:
        if self.contrast:
            check_queries(self.queries)

    def work(self, corpus: CorpusSize) -> Work:
        tokens = corpus.tokens_of(f"{query.prompt}{query.continuation}" for query in self.queries)
        return differentiating(
            shape_of(self.loading, corpus.vocabulary), self.curvature, self.influence, queries=len(self.queries),
            tokens=tokens, block_length=corpus.block_length,
        )  # fmt: skip

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        return self.trainer.on_all_devices(lambda processes: self.find(folder, inputs, processes))

    def find(self, folder: Path, inputs: Inputs, processes: Processes) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        split, model = corpus.split("train"), self.loading.load(inputs["proxy"], processes.device)
        shared = (model, load_factors(inputs["factors"]), self.curvature, self.influence, self.queries)
        vector, facts = find_direction(*shared, corpus.tokenizer, block_length=split.block_length, processes=processes)
        if processes.is_first:
            save_direction(vector, folder)
        correlation = direction_reliability(*shared, corpus.tokenizer, split, facts["gradient_dtype"], processes)
        found = findings.of_direction(correlation, on_both_sides(self.queries), len(self.queries))
        return {**facts, "split_half_correlation": correlation, **found}


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores(Stage):
    """Scores of all training tokens, or of those of a share of the blocks, along the direction of each behaviour.

    Attributes:
        directions: behaviour → direction; their order is that of the columns.
        proxy, data: what is scored, and with which model.
        scorer: how.
        share, share_seed: of the blocks; which of them.
        influence: dtype of the proxy, seed of the sample that the scorer measures itself on; blocks at a time.
        loading, trainer: how the proxy is loaded, and where.
    """

    name: ClassVar[str] = "scores"
    version: ClassVar[int] = 2
    resumable: ClassVar[bool] = True
    collective: ClassVar[bool] = True

    directions: Mapping[str, Stage] = made_from()
    proxy: Stage = made_from()
    data: Stage = made_from()
    scorer: Scorer = setting()
    share: float = late_setting(1.0)
    share_seed: int = late_setting(0)
    influence: InfluenceSettings = speed()
    loading: ModelSettings = speed()
    trainer: TrainerSettings = speed()

    def derived_settings(self) -> dict[str, Any]:
        order = {"behaviours": list(self.directions)} if len(self.directions) > 1 else {}
        dtype = FLOAT32 if self.influence.dtype == AUTO else self.influence.dtype  # what auto takes agrees with float32
        return {"dtype": dtype, **order}

    def check(self) -> None:
        check_dtype(self.scorer, self.influence.dtype)

    def work(self, corpus: CorpusSize) -> Work:
        return scoring(
            shape_of(self.loading, corpus.vocabulary), self.scorer, self.influence, directions=len(self.directions),
            blocks=self.share * corpus.blocks["train"], length=corpus.block_length,
        )  # fmt: skip

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        split, settings = inputs.corpus().split("train"), self.influence
        rows = rows_of_share(len(split), self.share, self.share_seed)
        model = self.loading.load(inputs["proxy"])
        vectors = [load_direction(path, model) for path in inputs.each("directions").values()]
        store = ScoreStore(folder, (len(vectors), len(rows), split.block_length), shard_blocks=settings.shard_blocks)

        def tokens(places: Any) -> NDArray[np.int64]:
            return split.tokens(rows[places])

        sampler = BlockSampler(tokens, store.shape[1:], settings.seed)
        module = ScoringModule(
            model, lambda model: prepare_in(settings.dtype, self.scorer, model, vectors, sampler), store, tokens,
            batch_size=settings.batch_size,
        )  # fmt: skip
        facts = fill_store(self.trainer.inference_trainer(), module)
        return {"behaviours": list(self.directions), **facts, **findings.of_scores(facts)}


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledScores(Stage):
    """Scores pooled over what tokens have in common (`ifguide.influence.pooling`)."""

    name: ClassVar[str] = "pooled"
    version: ClassVar[int] = 2

    scores: Stage = made_from()
    data: Stage = made_from()
    pooling: Pooling = setting()

    def work(self, corpus: CorpusSize) -> Work:
        tokens = corpus.tokens("train")
        return Work(seconds=POOLING * tokens, memory=Memory(PROCESS + POOLING_BYTES * tokens), disk=FLOAT * tokens)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        tokens, texts = corpus.split("train").tokens, token_texts(corpus.tokenizer)
        return pool_scores(self.pooling, open_scores(inputs["scores"]), tokens, texts, folder)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mask(Stage):
    """The tokens that teach a behaviour: one mask of all behaviours.

    Attributes:
        scores: what is selected from.
        data: the corpus.
        behaviours: names of the columns.
        selection: the rule.
    """

    name: ClassVar[str] = "mask"
    version: ClassVar[int] = 2

    scores: Stage = made_from()
    data: Stage = made_from()
    behaviours: Sequence[str] = speed()
    selection: Rule = setting()

    def work(self, corpus: CorpusSize) -> Work:
        tokens = corpus.tokens("train")
        seconds = SELECTING * tokens * len(self.behaviours)
        return Work(seconds=seconds, memory=Memory(PROCESS + FLOAT * tokens), disk=tokens / 8)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        split = corpus.split("train")
        mask, selections = select_behaviours(
            self.selection, self.behaviours, open_scores(inputs["scores"]), split.documents["start"]
        )
        mask.save(folder / MASK_FILE)
        short = [
            f"{name}: {one.selected:,} tokens of the {one.wanted:,} that selection.limit allows: no more tokens are "
            "above the threshold or beside one"
            for name, one in selections.items()
            if one.selected < one.wanted
        ]
        shape = mask_shape(mask, split, token_texts(corpus.tokenizer))
        return {
            "selected": mask.count(),
            "block_length": mask.block_length,
            "behaviours": {name: selection.facts for name, selection in selections.items()},
            **shape,
            **findings.of_mask(mask.count(), len(split) * split.block_length, shape, short),
        }
