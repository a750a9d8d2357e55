"""Score a corpus: whole copies of the proxy on all devices of a Lightning trainer, each scoring shards in turn.

Batch boundaries depend on the shard and the batch size alone, so the bytes written do not depend on the number of
processes nor on interruptions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ifguide.influence.scorers import Direction, Scorer, TokenScorer
from ifguide.influence.scorers.check import prepare_checked
from ifguide.influence.store import ScoreStore

SAMPLE_TOKENS = 4096  # tokens that a scorer may measure itself on
NO_SHARD = -1  # of a process that has none left: it still makes itself ready, for the facts


def sample_rows(blocks: int, count: int, seed: int) -> NDArray[np.int64]:
    """Rows of a random sample of blocks, sorted: the same for the same seed, a larger one holding the smaller."""
    return np.sort(np.random.default_rng(seed).permutation(blocks)[:count])


def rows_of_share(blocks: int, share: float, seed: int) -> NDArray[np.int64]:
    """Rows of all blocks, or of a random share of them."""
    return np.arange(blocks) if share == 1 else sample_rows(blocks, max(1, round(share * blocks)), seed)


@dataclass(frozen=True)
class BlockSampler:
    """Draws samples of some blocks, which every process draws alike.

    Args:
        tokens: rows → [rows, T] token ids.
        shape: of all, (blocks, T).
        seed: of the draw.
    """

    tokens: Callable[[Any], NDArray[np.int64]]
    shape: tuple[int, ...]
    seed: int = 0

    def __call__(self, tokens: int) -> NDArray[np.int64]:
        """Blocks that hold so many tokens, one at least, [B, T]."""
        blocks, length = self.shape
        return self.tokens(sample_rows(blocks, max(1, tokens // length), self.seed))


def score_blocks(scorer: TokenScorer, ids_BT: NDArray[np.int64], *, batch_size: int, device: Any) -> NDArray[Any]:
    """Scores of some blocks, [behaviours, B, T] in float32, `batch_size` blocks at a time."""
    parts = []
    for first in range(0, len(ids_BT), batch_size):
        batch = torch.from_numpy(ids_BT[first : first + batch_size]).to(device)
        parts.append(scorer(batch).float().cpu().numpy())
    return np.concatenate(parts, axis=1)


def prepare_scorer(
    scorer: Scorer,
    model: PreTrainedModel,
    directions: Sequence[Direction],
    sampler: BlockSampler,
) -> TokenScorer:
    """Make a scorer ready with directions in the model's dtype and a sample of blocks; it is checked on some of that
    (`prepare_checked`)."""
    sample = torch.from_numpy(sampler(SAMPLE_TOKENS))
    matching = [
        {name: value.to(model.get_parameter(name)) for name, value in direction.items()} for direction in directions
    ]
    return prepare_checked(scorer, model, matching, sample.to(model.device))


class ScoringModule(pl.LightningModule):
    """One process's share of scoring; `Trainer.predict` of it fills the store.

    Args:
        model: the proxy, or a student.
        prepare: makes the model, on its device and in evaluation mode, into a scorer.
        store: where finished shards go, on a file system that all processes share.
        tokens: rows → [rows, T] token ids.
        batch_size: blocks per call of the scorer.
    """

    def __init__(
        self,
        model: nn.Module,
        prepare: Callable[[Any], TokenScorer],
        store: ScoreStore,
        tokens: Callable[[Any], NDArray[np.int64]],
        *,
        batch_size: int,
    ) -> None:
        super().__init__()
        self.model, self._prepare, self.store, self._tokens = model, prepare, store, tokens
        self._batch_size = batch_size
        self.prepared: TokenScorer | None = None

    def on_predict_start(self) -> None:
        self.prepared = self._prepare(self.model.eval())

    def predict_dataloader(self) -> DataLoader[int]:
        shards = self.store.unfinished(rank=self.trainer.global_rank, processes=self.trainer.world_size)
        return DataLoader(shards or [NO_SHARD], batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, shard: int) -> int:
        assert self.prepared is not None
        if shard == NO_SHARD:
            return shard
        ids = self._tokens(self.store.rows(shard))
        self.store.write(shard, score_blocks(self.prepared, ids, batch_size=self._batch_size, device=self.device))
        return shard


def fill_store(trainer: pl.Trainer, module: ScoringModule) -> dict[str, Any]:
    """Score what is unfinished on all processes of a trainer, then join the shards in the first.

    Returns:
        The scorer's facts, for the manifest.
    """
    trainer.predict(module, return_predictions=False)
    if trainer.interrupted:
        raise KeyboardInterrupt
    trainer.strategy.barrier("scored")
    if trainer.is_global_zero:
        module.store.join()
    assert module.prepared is not None
    return dict(module.prepared.facts)
