"""A corpus with its proxy, and the scores that variants of the method and simpler means give its tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from omegaconf import OmegaConf

from ifguide.corpus.masks import TokenMask
from ifguide.corpus.queries import encode_queries
from ifguide.corpus.words import word_log_odds
from ifguide.evaluation.attribution import attribution_quality, known_tokens, word_list_scores
from ifguide.evaluation.fluency import block_losses
from ifguide.evaluation.token_baselines import (
    classifier_window_scores,
    expert_log_ratio_scores,
    gradient_norm_scores,
)
from ifguide.influence.amortised import Amortised
from ifguide.influence.direction import load_direction
from ifguide.influence.scoring import prepare_scorer, score_blocks
from ifguide.influence.store import create_scores, open_scores
from ifguide.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
EXACT = ("pooling=none",)
AMORTISED = ("scorer=amortised",)


# name → overrides; the first is what the others are compared with
VARIANTS: dict[str, tuple[str, ...]] = {
    "exact (`jvp`)": EXACT,
    "positional, aligned": (*EXACT, "scorer=positional"),
    "positional, as published": (*EXACT, "scorer=positional", "scorer.alignment=as_published"),
    "exact, damping 0.001": (*EXACT, "curvature.damping=0.001"),
    "exact, diagonal curvature": (*EXACT, "curvature=diagonal"),
    "exact, no curvature": (*EXACT, "curvature=identity"),
    "pooled by type": ("pooling=type",),
    "pooled by type and context": ("pooling=type_context",),
    "pooled by word": ("pooling=word",),
    "pooled by word and context": ("pooling=word_context",),
    "pooled by word and context, no curvature": ("pooling=word_context", "curvature=identity"),
    "amortised from 0.1 %": (*AMORTISED, "scorer.share=0.001"),
    "amortised from 0.2 %": (*AMORTISED, "scorer.share=0.002"),
    "amortised from 0.5 %": (*AMORTISED, "scorer.share=0.005"),
    "amortised from 1 %": (*AMORTISED, "scorer.share=0.01"),
    "amortised from 2 %": (*AMORTISED, "scorer.share=0.02"),
    "amortised from 5 %": AMORTISED,
    "amortised from 5 %, second sample": (*AMORTISED, "scorer.seed=1"),
    "amortised from 5 %, third sample": (*AMORTISED, "scorer.seed=2"),
    "amortised from 10 %": (*AMORTISED, "scorer.share=0.1"),
    "amortised from 5 %, words alone": (*AMORTISED, "scorer.student.types.context_weight=0"),
    "amortised from 5 %, convolutions": ("scorer=amortised_convolution",),
    "amortised from 10 %, convolutions": ("scorer=amortised_convolution", "scorer.share=0.1"),
}


class Study:
    """One corpus with its proxy: the scores of every variant and rival, and their quality."""

    def __init__(self, *overrides: str, variants: tuple[str, ...] | None = None) -> None:
        self.overrides = overrides
        self.pipelines = {name: self._compose(*VARIANTS[name]) for name in variants or VARIANTS}
        self.base = next(iter(self.pipelines.values()))
        self.split, self.tokenizer = self.base.corpus.split("train"), self.base.corpus.tokenizer
        assert self.split.annotation is not None
        self.annotation = self.split.annotation[:]

    def _compose(self, *overrides: str) -> Pipeline:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            fixed = ["stage=pooled", "paths.run=outputs/attribution_quality", *self.overrides]
            return Pipeline(compose("config", overrides=[*fixed, *overrides]))

    def scores(self, name: str) -> NDArray[np.float32]:
        return open_scores(self.pipelines[name].pooled().path)[0]

    def share(self, name: str) -> float:
        """Of the blocks that a variant scores exactly."""
        scorer = self.pipelines[name].scorer
        return scorer.share if isinstance(scorer, Amortised) else 1.0

    def score_text(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of other blocks, [B, T], with what the variant's scores were made with."""
        pipeline = self.pipelines[name]
        pipeline.scores()
        if isinstance(pipeline.scorer, Amortised):
            return pipeline.scorer.student.load(pipeline.artifacts["student"]).scores(torch.from_numpy(ids))[0].numpy()
        model = pipeline._load(pipeline.proxy(), "proxy")
        direction = load_direction(pipeline.direction().path, model)
        scorer = prepare_scorer(pipeline.scorer, model, [direction], lambda rows: ids[rows], (1, *ids.shape), 0)
        return score_blocks(scorer, ids, batch_size=64, device=model.device)[0]

    def mask(self, name: str) -> TokenMask:
        self.pipelines[name].mask()
        return self.pipelines[name].train_mask()

    def rivals(self) -> dict[str, NDArray[np.float32]]:
        """Scores by other means, kept in the workspace as those of the variants are."""
        base, split, batch = self.base, self.split, self.base.cfg.influence.batch_size
        queries = next(iter(base.queries.values()))
        encoded = encode_queries(queries, self.tokenizer, split.block_length)
        model = base._load(base.proxy(), "proxy")
        makers: dict[str, Callable[[], NDArray[np.float32]]] = {
            "word list: log-odds between queries": lambda: word_list_scores(
                split, self.tokenizer, word_log_odds(queries)
            ),
            "classifier on ±8 tokens": lambda: classifier_window_scores(split, self.tokenizer, base.classifier),
            "anti-expert less expert": lambda: expert_log_ratio_scores(model, split, encoded, batch_size=batch),
            "loss": lambda: block_losses(model, split, batch_size=batch),
            "gradient norm": lambda: gradient_norm_scores(model, split, batch_size=batch),
        }
        return {name: self._kept(name, make) for name, make in makers.items()}

    def _kept(self, name: str, make: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        def build(directory: Path) -> None:
            with create_scores(directory, (1, *self.split.shape)) as scores:
                scores[0] = make()

        base = self.base
        settings = {"scores": name, "queries": OmegaConf.to_container(base.cfg.behaviours, resolve=True)}
        inputs = {"data": base.data(), "proxy": base.proxy()}
        artifact = base.workspace.build("baseline", version=1, settings=settings, inputs=inputs, builder=build)
        return open_scores(artifact.path)[0]

    def quality(self, scores: NDArray[np.float32], source: str | None = None) -> dict[str, Any]:
        """Against the spans of one source of posts, or of all."""
        number = None if source is None else self.base.corpus.sources.index(source)
        return attribution_quality(scores, self.annotation, known_tokens(self.split, number))
