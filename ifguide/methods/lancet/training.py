"""LANCET-style correction: settings, what a batch is, and training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from ifguide.checks import check_number, check_seed, check_whole_number
from ifguide.classifiers import ClassifierSettings
from ifguide.corpus.blocks import Split
from ifguide.methods.lancet.loss import ascent_loss, bregman_divergence, log_ratios, pairwise_loss
from ifguide.methods.lancet.ranking import influential, rank
from ifguide.methods.samples import Sampling
from ifguide.training.context import TrainingContext
from ifguide.training.fit import train_on_examples
from ifguide.training.module import OptimizedModule
from ifguide.training.optimization import Optimization
from ifguide.training.predictions import FrozenCopy

RANKS = ("influence", "classifier", "random")
QUERIES = ("generations", "labelled")
ANCHORS = ("retained", "low")
OBJECTIVES = {"pairwise": pairwise_loss, "ascent": ascent_loss}

# N pairs, T tokens, V vocabulary


@dataclass(frozen=True, kw_only=True)
class Lancet:
    """Post-training on the training sequences of highest influence on a behaviour against those of lowest.

    A sequence is a training block or its beginning. The loss is that of `objective` plus w · KL(π_s ‖ π), where π_s is
    the model before. LANCET-style: the paper's own formulas are not known to us.

    Args:
        optim: how it is optimised; it counts pairs where it speaks of blocks.
        rank: what sequences are ranked by: `influence` on the queries, or as controls `classifier` (how toxic it finds
            them) and `random`.
        queries: `generations`, those of the model's continuations that the classifier finds toxic, or `labelled`, the
            toxic ones of `behaviours`.
        threshold: probability from which a continuation is toxic.
        sampling: of the continuations.
        classifier: who finds texts toxic; not the one that evaluates.
        length: tokens of a sequence; None: the whole block.
        drop: quantile of |score| below which a sequence is not influential, and is not ranked; of influence alone.
        share: of all sequences that are the highest, and as many the lowest.
        objective: `pairwise`, or as a control `ascent` on the highest alone.
        beta: β.
        kl: w.
        anchor: where the KL is taken: on `retained` sequences, drawn from all but the highest, or on the `low` ones.
        seed: of the order, of what is drawn, and of random ranks.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    NOT_SETTINGS: ClassVar = ("rank", "queries", "threshold", "sampling", "classifier")  # they decide the scores

    optim: Optimization
    sampling: Sampling
    classifier: ClassifierSettings
    rank: str = "influence"
    queries: str = "generations"
    threshold: float = 0.5
    length: int | None = None
    drop: float = 0.5
    share: float = 0.1
    objective: str = "pairwise"
    beta: float = 0.1
    kl: float = 1.0
    anchor: str = "retained"
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name, known in (
            ("rank", RANKS), ("queries", QUERIES), ("objective", OBJECTIVES), ("anchor", ANCHORS),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)}; known: {', '.join(known)}")
        check_number("beta", self.beta, least=0)
        check_number("kl", self.kl, least=0)
        if self.length is not None:
            check_whole_number("length", self.length, least=2)
        for name, rule, ok in (
            ("threshold", "above 0 and at most 1", 0 < self.threshold <= 1),
            ("drop", "0 or more and below 1", 0 <= self.drop < 1),
            ("share", "above 0 and at most one half", 0 < self.share <= 0.5),
        ):
            if not ok:
                raise ValueError(f"{name}={getattr(self, name)}: must be {rule}")

    @property
    def dropped(self) -> float:
        """`drop`; 0 of what is no influence: a classifier is surest of the least toxic, chance is sure of nothing."""
        return self.drop if self.rank == "influence" else 0.0

    def pairs(self, count: int) -> int:
        """Number of pairs from so many sequences.

        Raises:
            ValueError: there are too few for it, or for a single step.
        """
        pairs, left = int(self.share * count), influential(count, self.dropped)
        if pairs == 0 or 2 * pairs > left:
            raise ValueError(
                f"share={self.share}: {pairs} of {count} blocks are the highest and as many the lowest, of {left} that "
                f"drop={self.dropped} leaves; change one of them"
            )
        self.optim.steps(pairs, "pairs")
        return pairs

    def check(self, count: int, block_length: int) -> None:
        """Raise ValueError where so many blocks of this length are too few or too short to learn from."""
        self.pairs(count)
        if self.length is not None and self.length > block_length:
            raise ValueError(f"length={self.length}: a block has {block_length} tokens (data.block_length)")

    def train(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel,
        blocks: Split,
        scores_N: NDArray[np.floating],
        context: TrainingContext,
    ) -> dict[str, Any]:
        """Train a model in place; the caller saves it (`save_trained`).

        Args:
            model: the policy, at the weights of the reference.
            reference: another copy of it.
            blocks: of the training split.
            scores_N: of its sequences.
            context: where it is computed, and keeps its checkpoints.

        Returns:
            Facts: pairs, mean scores of both sides, steps, the last training loss.
        """
        high, low = rank(scores_N, drop=self.dropped, pairs=self.pairs(len(scores_N)))
        anchored = low if self.anchor == "low" else draw_retained(len(scores_N), high, self.seed)
        model.eval()  # without dropout: π and π_s are equal at first
        facts = train_on_examples(
            lambda steps: BregmanModule(
                model,
                reference,
                self.optim,
                objective=OBJECTIVES[self.objective],
                beta=self.beta,
                kl=self.kl,
                steps=steps,
                seed=self.seed,
                fused=context.trainer.fused_loss,
            ),
            self.optim,
            context,
            examples=RankedExamples(blocks, np.stack([high, low, anchored], axis=1), self.length),
            validation=None,
            seed=self.seed,
        )
        means = {"mean_high": float(scores_N[high].mean()), "mean_low": float(scores_N[low].mean())}
        return {"pairs": len(high), **means, **facts}


def draw_retained(count: int, high_K: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """As many sequences as are the highest, drawn from the others; each once."""
    retained = np.setdiff1d(np.arange(count), high_K)
    return np.random.default_rng([seed, 2]).permutation(retained)[: len(high_K)]


class RankedExamples:
    """Rows → one batch of `input_ids` [3 · rows, T]: the highest, then the lowest, then the anchored sequences.

    Args:
        blocks: they are the beginnings of.
        places_N3: rows of the blocks.
        length: tokens of each; None: all.
    """

    def __init__(self, blocks: Split, places_N3: NDArray[np.int64], length: int | None) -> None:
        self._blocks, self._places, self._length = blocks, places_N3, length

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        tokens = self._blocks.tokens(self._places[rows].T.reshape(-1))
        return {"input_ids": torch.from_numpy(tokens[:, : self._length])}


class BregmanModule(OptimizedModule):
    """Trains a policy on batches of `RankedExamples`.

    Args:
        model: the policy.
        reference: a frozen copy of where it began.
        objective: of `OBJECTIVES`.
        beta, kl: β and w, see `Lancet`.
        optimization, steps, seed, fused: as in `OptimizedModule`.
    """

    shares = True

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module,
        optimization: Optimization,
        *,
        objective: Callable[..., Tensor],
        beta: float,
        kl: float,
        steps: int,
        seed: int,
        fused: bool | None = None,
    ) -> None:
        super().__init__(model, optimization, steps=steps, seed=seed, fused=fused)
        self._objective, self._beta, self._kl = objective, beta, kl
        self._reference = FrozenCopy(reference, lambda: self.model, fused=fused)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        ids_BT = batch["input_ids"]
        reference_BTV = self._reference(ids_BT)
        policy_BTV = self._predict(ids_BT)
        paired = slice(2 * (len(ids_BT) // 3))
        ratios_N2 = log_ratios(policy_BTV[paired], reference_BTV[paired], ids_BT[paired]).view(2, -1).T
        anchor = bregman_divergence(policy_BTV[paired.stop :], reference_BTV[paired.stop :])
        return self._objective(ratios_N2, beta=self._beta) + self._kl * anchor
