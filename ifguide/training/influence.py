"""Influence during training: fit → direction → scores → mask at chosen points of an ordinary run."""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ifguide.checks import check_whole_number
from ifguide.corpus.documents import Query
from ifguide.corpus.masks import MASK_FILE, TokenMask, jaccard
from ifguide.corpus.queries import check_queries
from ifguide.corpus.tokenizers import token_texts
from ifguide.influence.chain import InfluenceSettings, Rule, find_direction, fit_factors, select_behaviours
from ifguide.influence.curvature import Curvature
from ifguide.influence.direction import load_direction, save_direction
from ifguide.influence.factors import by_layer
from ifguide.influence.low_precision import prepare_in
from ifguide.influence.pooling import Pooling, pool_scores
from ifguide.influence.scorers import Direction, Scorer
from ifguide.influence.scoring import BlockSampler, sample_rows, score_blocks
from ifguide.influence.store import ScoreStore, open_scores
from ifguide.statistics import spearman
from ifguide.training.data import BlockDataModule
from ifguide.training.strategies import shares_weights
from ifguide.workspace import read_json, write_json

FOLDER = "influence"
SUMMARY = "summary.json"
POOLED = "pooled"
QUANTILES = (0.01, 0.5, 0.99, 0.999)
TOP_DOCUMENTS = 10


class InfluenceScoring(pl.Callback):
    """Scores training blocks with the model as it is, at chosen points of its own training.

    At every point, and at the end, it fits the curvature, takes the direction of each behaviour, scores and selects.
    It logs score quantiles, the size of the mask and the drift since the point before (Spearman correlation of the
    scores, Jaccard index of the masks), and leaves `influence/step=<n>/` (directions, scores, mask, summary with the
    documents of the highest selected scores) in the model's folder, with `influence/summary.json` comparing every
    point with the last. Training itself is not touched, unless the mask is handed over.

    Args:
        behaviours: name → queries of both classes.
        curvature, scorer, selection, pooling: as in the stages of a run.
        influence: which layers and blocks, and how many at a time.
        every_steps: optimiser steps between points; or
        every_epochs: passes over the corpus between points, as in 0.25.
        blocks: training blocks to score, sampled at random; None: all.
        hand_over: from each point on, train with the mask found there (needs an objective with a mask).

    Raises:
        ValueError: settings that do not go together, before anything is trained.
    """

    adds_files = True  # to the model's folder, so that its settings decide that artifact
    reads_whole_model = True  # which a strategy that shares weights out does not have

    def __init__(
        self,
        *,
        behaviours: Mapping[str, Sequence[Query]],
        curvature: Curvature,
        scorer: Scorer,
        selection: Rule,
        influence: InfluenceSettings,
        pooling: Pooling | None = None,
        every_steps: int | None = None,
        every_epochs: float | None = None,
        blocks: int | None = None,
        hand_over: bool = False,
    ) -> None:
        if (every_steps is None) == (every_epochs is None):
            raise ValueError(f"every_steps={every_steps}, every_epochs={every_epochs}: one of both is needed")
        if (every_steps or every_epochs or 0) <= 0:
            raise ValueError(f"every_steps={every_steps}, every_epochs={every_epochs}: it is above 0")
        if blocks is not None:
            check_whole_number("blocks", blocks, least=1)
        if blocks is not None and (hand_over or selection.unit == "document"):
            raise ValueError(
                f"blocks={blocks}: a mask to hand over, and documents as the unit of selection, need all blocks "
                "(blocks=null)"
            )
        if not hasattr(scorer, "prepare"):
            raise ValueError(f"scorer: {type(scorer).__name__} is no influence, whatever the model; choose another one")
        for queries in behaviours.values():
            check_queries(queries)
        self.behaviours, self.curvature, self.scorer, self.selection = behaviours, curvature, scorer, selection
        self.influence, self.pooling = influence, pooling or None  # an empty configuration is none
        self.every_steps, self.every_epochs, self.blocks, self.hand_over = every_steps, every_epochs, blocks, hand_over
        self._points: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        return {"points": list(self._points)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._points = list(state_dict["points"])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if shares_weights(trainer.strategy):
            raise ValueError("callbacks.influence reads the whole model while it is trained; use trainer.strategy=ddp")
        data = _data(trainer)
        if data.tokenizer is None:
            raise ValueError("callbacks.influence needs a data module with the corpus's tokenizer")
        if self.hand_over and data.mask is None:
            raise ValueError("callbacks.influence.hand_over needs an objective with a mask, as method=ifguide has")
        if self.hand_over and self._points:  # resumed
            data.replace_mask(
                TokenMask.open(self._folder(trainer, self._points[-1]) / MASK_FILE, data.train.block_length)
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        per_epoch = _data(trainer).steps_per_epoch
        every = self.every_steps or max(1, round((self.every_epochs or 0) * per_epoch))
        if trainer.global_step % every == 0:
            self._point(trainer, module)
        if trainer.global_step == trainer.max_steps:
            self._finish(trainer, module)  # before the last checkpoint, after which a resumed run trains no more

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._finish(trainer, module)

    def _finish(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._point(trainer, module)
        if trainer.is_global_zero:
            write_json(Path(trainer.default_root_dir) / FOLDER / SUMMARY, self._summary(trainer))

    def _point(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        step = trainer.global_step
        if step == 0 or step in self._points:
            return
        data, folder = _data(trainer), self._folder(trainer, step)
        rows = sample_rows(len(data.train), self.blocks or len(data.train), self.influence.seed)
        if not (folder / SUMMARY).exists():
            self._score(trainer, module, folder, rows)
        self._points.append(step)
        mask = TokenMask.open(folder / MASK_FILE, data.train.block_length)
        if self.hand_over:
            data.replace_mask(mask)
        if trainer.logger is not None and trainer.is_global_zero:
            logged = dict(read_json(folder / SUMMARY)["log"])
            if len(self._points) > 1:
                before = self._folder(trainer, self._points[-2])
                drift = compare_points(before, folder, mask)
                logged |= {f"influence/drift/{key}": value for key, value in drift.items()}
            trainer.logger.log_metrics(logged, step=step)

    def _score(self, trainer: pl.Trainer, module: Any, folder: Path, rows: NDArray[np.int64]) -> None:
        data = _data(trainer)
        model = copy.deepcopy(module.model).float().eval()
        folder.mkdir(parents=True, exist_ok=True)
        directions = self._directions(trainer, model, folder)
        shape = (len(directions), len(rows), data.train.block_length)
        store = ScoreStore(folder, shape, shard_blocks=self.influence.shard_blocks)
        sampler = BlockSampler(lambda places: data.train.tokens(rows[places]), shape[1:], self.influence.seed)
        scorer = prepare_in(self.influence.dtype, self.scorer, model, directions, sampler)
        with torch.no_grad():
            for shard in store.unfinished(rank=trainer.global_rank, processes=trainer.world_size):
                ids = data.train.tokens(rows[store.rows(shard)])
                store.write(shard, score_blocks(scorer, ids, batch_size=self.influence.batch_size, device=model.device))
        trainer.strategy.barrier("influence scored")
        if trainer.is_global_zero:
            store.join()
            self._select(data, folder, rows)
        trainer.strategy.barrier("influence selected")

    def _directions(self, trainer: pl.Trainer, model: PreTrainedModel, folder: Path) -> list[Direction]:
        """The directions of all behaviours, found by the first process and read by all."""
        data = _data(trainer)
        files = {name: folder / f"direction_of_{name}" for name in self.behaviours}
        if trainer.is_global_zero and not all(path.exists() for path in files.values()):
            assert data.tokenizer is not None  # checked at the start
            factors, _ = fit_factors(model, data.train, self.curvature, self.influence, progress=False)
            for name, queries in self.behaviours.items():
                if files[name].exists():
                    continue
                direction, _ = find_direction(
                    model,
                    by_layer(factors),
                    self.curvature,
                    self.influence,
                    queries,
                    data.tokenizer,
                    block_length=data.train.block_length,
                )
                building = folder / f".{files[name].name}"
                building.mkdir(exist_ok=True)
                save_direction(direction, building)
                os.replace(building, files[name])
        trainer.strategy.barrier("influence directions")
        return [load_direction(path, model) for path in files.values()]

    def _select(self, data: BlockDataModule, folder: Path, rows: NDArray[np.int64]) -> None:
        columns = open_scores(folder)
        if self.pooling is not None:
            assert data.tokenizer is not None
            (folder / POOLED).mkdir(exist_ok=True)
            texts = token_texts(data.tokenizer)
            pool_scores(self.pooling, columns, lambda r: data.train.tokens(rows[r]), texts, folder / POOLED)
            columns = open_scores(folder / POOLED)
        starts = data.train.documents["start"]
        mask, selections = select_behaviours(self.selection, list(self.behaviours), columns, starts)
        mask.save(folder / MASK_FILE)
        logged: dict[str, float] = {"influence/masked_tokens": mask.count()}
        for (name, selection), column in zip(selections.items(), columns, strict=True):
            values = np.quantile(column[:, 1:], QUANTILES)
            logged |= {f"influence/{name}/q{q:g}": float(value) for q, value in zip(QUANTILES, values, strict=True)}
            logged[f"influence/{name}/threshold"] = selection.facts["threshold"]
        summary = {
            "log": logged,
            "selection": {name: selection.facts for name, selection in selections.items()},
            "top_documents": {
                name: top_documents(data, rows, column, selections[name].mask)
                for name, column in zip(selections, columns, strict=True)
            },
        }
        write_json(folder / SUMMARY, summary)

    def _summary(self, trainer: pl.Trainer) -> list[dict[str, Any]]:
        """Every point compared with the last."""
        folders = [self._folder(trainer, step) for step in self._points]
        last = TokenMask.open(folders[-1] / MASK_FILE, _data(trainer).train.block_length)
        return [
            {"step": step, **compare_points(folder, folders[-1], last)}
            for step, folder in zip(self._points, folders, strict=True)
        ]

    def _folder(self, trainer: pl.Trainer, step: int) -> Path:
        return Path(trainer.default_root_dir) / FOLDER / f"step={step}"


def compare_points(folder: Path, other: Path, other_mask: TokenMask) -> dict[str, float]:
    """Spearman correlation of the scores (of the first behaviour) and Jaccard index of the masks of two points."""
    mask = TokenMask.open(folder / MASK_FILE, other_mask.block_length)
    ours, theirs = (open_scores(path)[0][:, 1:] for path in (folder, other))
    return {"spearman": spearman(ours, theirs), "mask_jaccard": jaccard(mask, other_mask)}


def top_documents(
    data: BlockDataModule, rows: NDArray[np.int64], scores_BT: NDArray[np.float32], mask: TokenMask
) -> list[dict[str, float]]:
    """Source number, record and sum of selected scores of the documents where that sum is highest."""
    length = data.train.block_length
    block, offset = np.nonzero(mask[:])
    owner = data.train.documents_of(rows[block] * length + offset)
    total = np.bincount(owner, weights=scores_BT[block, offset], minlength=1)
    best = np.argsort(-total, kind="stable")[:TOP_DOCUMENTS]
    documents = data.train.documents[best]
    return [
        {"source": int(row["source"]), "record": int(row["record"]), "selected_scores": float(total[index])}
        for index, row in zip(best, documents, strict=True)
    ]


def _data(trainer: pl.Trainer) -> BlockDataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, BlockDataModule)
    return data
