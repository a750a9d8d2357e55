"""The stages of influence: proxy → factors → direction → scores → pooled → mask."""

from collections.abc import Mapping
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ifguide.corpus.masks import TokenMask
from ifguide.corpus.queries import encode_queries
from ifguide.corpus.tokenizers import token_texts
from ifguide.influence.amortised import Amortised
from ifguide.influence.curvature import load_factors, save_factors
from ifguide.influence.direction import load_direction, precondition_direction, query_gradient, save_direction
from ifguide.influence.pooling import pool_scores
from ifguide.influence.scorers import Scorer, TokenScorer
from ifguide.influence.scoring import ScoringModule, fill_store, prepare_scorer, sample_rows
from ifguide.influence.store import ScoreStore, open_scores
from ifguide.models import load_model, tracked_layers
from ifguide.pipeline.base import MASK_FILE, Stages
from ifguide.workspace import Artifact, ArtifactError

STUDENT_TOKENS = 8192  # that a student reads at a time
UNCENSORED = {"_target_": "ifguide.objectives.LanguageModeling"}


class InfluenceStages(Stages):
    """From the corpus to the mask of the tokens that teach a behaviour."""

    def proxy(self) -> Artifact:
        """The model whose gradients are taken; the uncensored model of its seed where the settings are the target's."""
        return self._trained("proxy", UNCENSORED, None)

    @cache  # noqa: B019
    def factors(self) -> Artifact:
        proxy, data = self.proxy(), self.data()

        def build(directory: Path) -> dict[str, Any]:
            split, model, influence = self.corpus.split("train"), self._load(proxy, "proxy"), self.cfg.influence
            rows = sample_rows(len(split), self.curvature.blocks, influence.seed)
            factors = self.curvature.fit(
                model,
                split.tokens(rows),
                batch_size=influence.batch_size,
                seed=influence.seed,
                layers=self._layers(model),
                progress=self.hardware.progress,
            )
            save_factors(factors, directory)
            return {"blocks": len(rows)}

        settings = self._settings("curvature", without=("damping", "relative")) | self._influence_settings(
            "seed", "layers", "last_blocks"
        )
        return self._build("factors", 2, settings=settings, inputs={"proxy": proxy, "data": data}, builder=build)

    @cache  # noqa: B019
    def direction(self, behaviour: str | None = None, contrast: bool = True) -> Artifact:
        """The direction of a behaviour, the first unless named; without contrast, that of its toxic queries alone."""
        behaviour = behaviour or next(iter(self.queries))
        proxy, data, factors = self.proxy(), self.data(), self.factors()
        chosen = [query for query in self.queries[behaviour] if contrast or query.toxic]

        def build(directory: Path) -> dict[str, Any]:
            model = self._load(proxy, "proxy")
            queries = encode_queries(chosen, self.corpus.tokenizer, self.corpus.info["block_length"])
            gradients = query_gradient(
                model, queries, batch_size=self.cfg.influence.batch_size, layers=self._layers(model)
            )
            direction = precondition_direction(model, gradients, load_factors(factors.path), self.curvature)
            save_direction(direction, directory)
            return {
                "toxic_queries": sum(query.toxic for query in queries),
                "nontoxic_queries": sum(not query.toxic for query in queries),
                "gradient_norm": _norm(gradients),
                "direction_norm": _norm(direction),
            }

        settings = {"queries": self._settings("behaviours")[behaviour], "curvature": self._settings("curvature")}
        settings |= {} if contrast else {"contrast": False}
        inputs = {"proxy": proxy, "data": data, "factors": factors}
        role = _role("direction", contrast) + ("" if len(self.queries) == 1 else f" of {behaviour}")
        return self._build("direction", 2, role=role, settings=settings, inputs=inputs, builder=build)

    @cache  # noqa: B019
    def scores(self, contrast: bool = True) -> Artifact:
        """Scores of all training tokens along the direction of each behaviour."""
        settings = self._settings("scorer")
        if isinstance(self.scorer, Amortised):
            return self._amortised_scores(self.scorer, settings, contrast)
        return self._exact_scores("scores", self.scorer, settings, contrast)

    def _exact_scores(
        self, role: str, scorer: Scorer, settings: Any, contrast: bool, share: float = 1.0, seed: int = 0
    ) -> Artifact:
        """Scores along all directions of all training blocks, or of a random share of them."""
        proxy, data, influence = self.proxy(), self.data(), self.cfg.influence
        directions = {name: self.direction(name, contrast) for name in self.queries}

        def build(directory: Path) -> dict[str, Any]:
            split = self.corpus.split("train")
            rows = self._sample(share, seed)
            model = load_model(proxy.path, **self._loading("proxy"))
            vectors = [load_direction(direction.path, model) for direction in directions.values()]
            store = ScoreStore(
                directory, (len(directions), len(rows), split.block_length), shard_blocks=influence.shard_blocks
            )

            def tokens(places: Any) -> NDArray[np.int64]:
                return split.tokens(rows[places])

            module = ScoringModule(
                model.to(getattr(torch, influence.dtype)),
                lambda model: prepare_scorer(scorer, model, vectors, tokens, store.shape, influence.seed),
                store,
                tokens,
                batch_size=influence.batch_size,
            )
            return {"behaviours": list(directions), **fill_store(self.hardware.inference_trainer(), module)}

        sampled: dict[str, Any] = {} if share == 1 else {"share": share, "seed": seed}
        if len(directions) > 1:
            sampled["behaviours"] = list(directions)  # the order of the columns
        return self._build(
            "scores",
            2,
            role=_role(role, contrast),
            settings=settings | self._influence_settings("dtype") | sampled,
            inputs={"proxy": proxy, "data": data} | {f"direction of {name}": d for name, d in directions.items()},
            builder=build,
            resumable=True,
            collective=True,
        )

    def _amortised_scores(self, amortised: Amortised, settings: Any, contrast: bool) -> Artifact:
        """Scores of all training blocks by a student of exact scores of some."""
        exact = self._exact_scores(
            "exact scores", amortised.exact, settings["exact"], contrast, amortised.share, amortised.seed
        )
        data = self.data()

        def fit(directory: Path) -> dict[str, Any]:
            split, rows = self.corpus.split("train"), self._sample(amortised.share, amortised.seed)
            student, facts = amortised.student.fit(
                open_scores(exact.path), lambda places: split.tokens(rows[places]), token_texts(self.corpus.tokenizer)
            )
            student.save(directory)
            return {"blocks": len(rows), **facts}

        student = self._build(
            "student",
            2,
            role=_role("student", contrast),
            settings=settings["student"],
            inputs={"data": data, "exact": exact},
            builder=fit,
        )

        def build(directory: Path) -> dict[str, Any]:
            split = self.corpus.split("train")
            store = ScoreStore(
                directory, (len(self.queries), *split.shape), shard_blocks=self.cfg.influence.shard_blocks
            )
            module = ScoringModule(
                amortised.student.load(student.path),
                lambda model: TokenScorer(model.scores),
                store,
                split.tokens,
                batch_size=max(1, STUDENT_TOKENS // split.block_length),
            )
            return {"behaviours": list(self.queries), **fill_store(self.hardware.inference_trainer(), module)}

        return self._build(
            "scores",
            2,
            role=_role("scores", contrast),
            settings={},
            inputs={"data": data, "student": student},
            builder=build,
            resumable=True,
            collective=True,
        )

    def _sample(self, share: float, seed: int) -> NDArray[np.int64]:
        blocks = len(self.corpus.split("train"))
        return np.arange(blocks) if share == 1 else sample_rows(blocks, max(1, round(share * blocks)), seed)

    @cache  # noqa: B019
    def pooled(self) -> Artifact:
        """The scores that are selected from: those of single tokens, or pooled ones."""
        data, scores, pooling = self.data(), self.scores(), self.pooling
        if pooling is None:
            return scores

        def build(directory: Path) -> dict[str, Any]:
            tokens, texts = self.corpus.split("train").tokens, token_texts(self.corpus.tokenizer)
            return pool_scores(pooling, open_scores(scores.path), tokens, texts, directory)

        inputs = {"data": data, "scores": scores}
        return self._build("pooled", 2, settings=self._settings("pooling"), inputs=inputs, builder=build)

    @cache  # noqa: B019
    def mask(self) -> Artifact:
        if self.cfg.paths.mask is not None:
            return self._foreign_mask(Path(self.cfg.paths.mask))
        data, scores = self.data(), self.pooled()

        def build(directory: Path) -> dict[str, Any]:
            starts = self.corpus.split("train").documents["start"]
            facts, masks = {}, []
            for name, column in zip(self.queries, open_scores(scores.path), strict=True):
                selection = self.selection(column, starts)
                masks.append(selection.mask)
                facts[name] = selection.facts
                if selection.selected < selection.wanted:
                    print(
                        f"Selected {selection.selected} tokens of the {selection.wanted} that selection.limit allows: "
                        "no more tokens are above the threshold or beside one"
                    )
            union = reduce(or_, masks)
            union.save(directory / MASK_FILE)
            return {"selected": union.count(), "behaviours": facts}

        inputs = {"data": data, "scores": scores}
        return self._build("mask", 2, settings=self._settings("selection"), inputs=inputs, builder=build)

    def train_mask(self) -> TokenMask:
        return TokenMask.open(self.mask().path / MASK_FILE, self.corpus.info["block_length"])

    def _layers(self, model: PreTrainedModel) -> list[str]:
        influence = self.cfg.influence
        return list(tracked_layers(model, match=influence.layers, last_blocks=influence.last_blocks))

    def _influence_settings(self, *keys: str) -> dict[str, Any]:
        return {key: self.cfg.influence[key] for key in keys}

    def _foreign_mask(self, path: Path) -> Artifact:
        """Another run's mask, if it is a mask of this corpus.

        Raises:
            ArtifactError: it is not.
        """
        mask, data = Artifact.open(path, stage="mask", verify=self.workspace.verify), self.data()
        theirs = mask.manifest["inputs"]["data"]
        if theirs != data.fingerprint:
            raise ArtifactError(
                f"paths.mask={path} was made for the corpus data-{theirs}, this run's is {data.path.name}: "
                "a mask belongs to one corpus; leave paths.mask unset to make one for this"
            )
        return mask


def _role(role: str, contrast: bool) -> str:
    return role if contrast else f"{role} without contrast"


def _norm(vectors: Mapping[str, torch.Tensor]) -> float:
    return float(torch.stack([vector.double().square().sum() for vector in vectors.values()]).sum().sqrt())
