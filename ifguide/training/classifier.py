"""A small classifier that is trained here, from labelled texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from ifguide.checks import argument, check_seed, check_whole_number
from ifguide.classifiers.ngrams import NgramClassifier, NgramNetwork
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import hash_fraction
from ifguide.statistics import roc_auc


@dataclass(frozen=True, kw_only=True)
class NgramTraining:
    """How a network of n-grams is trained.

    Args:
        buckets, width, characters, words: see `NgramNetwork`.
        epochs: passes over the texts.
        batch_size: texts per step.
        learning_rate: highest, of AdamW; falls to zero in a cosine.
        weight_decay: of AdamW.
        seed: of the first weights and the order of the texts.

    Raises:
        ValueError: a setting out of range.
    """

    buckets: int = 1 << 17
    width: int = 16
    characters: Sequence[int] = (3, 4, 5)
    words: Sequence[int] = (1, 2)
    epochs: int = 4
    batch_size: int = 128
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("buckets", "width", "epochs", "batch_size"):
            check_whole_number(name, getattr(self, name), least=1)
        check_seed(self.seed)
        if not (self.characters or self.words) or min([*self.characters, *self.words]) < 1:
            raise ValueError(
                f"characters={list(self.characters)}, words={list(self.words)}: lengths of n-grams, one at "
                "least, from 1 up"
            )

    def train(
        self,
        texts: Sequence[str],
        toxic: NDArray[np.bool_],
        weights: NDArray[np.float64],
        chosen: NDArray[np.int64],
    ) -> NgramNetwork:
        """A network that tells the chosen ones of some texts; toxic and weights are [n], one for each text."""
        state = torch.random.get_rng_state()
        torch.manual_seed(self.seed)
        network = NgramNetwork(buckets=self.buckets, width=self.width, characters=self.characters, words=self.words)
        features, edges = network.features(texts)

        def batch(rows: Sequence[int]) -> tuple[Tensor, ...]:
            parts = [features[edges[row] : edges[row + 1]] for row in rows]
            starts = np.r_[0, np.cumsum([len(part) for part in parts])][:-1]
            index = np.array(rows)
            return (
                torch.from_numpy(np.concatenate(parts)),
                torch.from_numpy(starts),
                torch.from_numpy(toxic[index].astype(np.float32)),
                torch.from_numpy(weights[index].astype(np.float32)),
            )

        training: Any = chosen.tolist()
        generator = torch.Generator().manual_seed(self.seed)
        loader = DataLoader(training, self.batch_size, shuffle=True, generator=generator, collate_fn=batch)
        module = ClassifierModule(
            network,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=self.epochs * len(loader),
        )
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=self.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(module, loader)
        torch.random.set_rng_state(state)
        return network.eval()


@dataclass(frozen=True, kw_only=True)
class TrainedClassifier(NgramTraining):
    """What trains a classifier of toxicity: labelled texts, the size of the network, and the optimisation.

    The loss is binary cross-entropy in which both classes of a source weigh the same, so that the style of a source
    says nothing about the label, and 0.5 is the border between classes of equal weight. A fixed part of the texts (by
    a hash of the text) is kept out and judged.

    Args:
        texts: name → labelled texts.
        validation: share of the texts that is kept out.

    Raises:
        ValueError: a setting out of range.
    """

    texts: Mapping[str, Iterable[LabelledText]]
    validation: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.texts:
            raise ValueError("texts: there is nothing to train on")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation}: a share above 0 and below 1")

    @property
    def name(self) -> str:
        return f"trained on {', '.join(self.texts)}"

    def fit(self, folder: Path) -> dict[str, Any]:
        """Train, and save weights and shape.

        Returns:
            Facts: `texts`, `positive_share`, and on the texts kept out `roc_auc` of all and of each source, and
            `probabilities`, their 5th, 50th and 95th percentile.

        Raises:
            ValueError: a class is missing in a source, or there are too few texts to keep some out.
        """
        rows: list[tuple[str, LabelledText]] = []
        for name, source in self.texts.items():
            with argument(f"texts.{name}"):
                rows += [(name, row) for row in source]
        texts, toxic = [row.text for _, row in rows], np.array([row.toxic for _, row in rows])
        sources = np.array([name for name, _ in rows])
        kept_out = np.array([hash_fraction(text) < self.validation for text in texts])
        for name in self.texts:
            here = toxic[kept_out & (sources == name)]
            if not here.any() or here.all():
                raise ValueError(
                    f"texts.{name}: the {len(here)} texts kept out to judge it (validation={self.validation}) are of "
                    "one class; add texts, or raise validation"
                )
        network = self.train(texts, toxic, class_weights(sources, toxic), np.flatnonzero(~kept_out))
        network.save(folder)
        out = np.flatnonzero(kept_out)
        scores = NgramClassifier(network, name="")([texts[row] for row in out])["toxicity"]
        return {
            "texts": len(texts),
            "positive_share": float(toxic.mean()),
            "kept_out": len(out),
            "roc_auc": roc_auc(scores, toxic[out]),
            "probabilities": np.percentile(scores, [5, 50, 95]).tolist(),
            "sources": {
                name: {"texts": int((sources == name).sum()), "roc_auc": roc_auc(scores[here], toxic[out][here])}
                for name in self.texts
                for here in [sources[out] == name]
            },
        }

    def load(self, folder: Path, device: str | torch.device = "cpu") -> NgramClassifier:
        """What `fit` saved; it computes on the CPU, whatever the device."""
        return NgramClassifier(NgramNetwork.load(folder), name=self.name)


class ClassifierModule(pl.LightningModule):
    """Trains a network on (features, starts, toxic, weights) batches."""

    def __init__(self, network: NgramNetwork, *, learning_rate: float, weight_decay: float, steps: int) -> None:
        super().__init__()
        self.network = network
        self._learning_rate, self._weight_decay, self._steps = learning_rate, weight_decay, steps

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        features, starts, toxic, weights = batch
        return F.binary_cross_entropy_with_logits(self.network(features, starts), toxic, weights)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.parameters(), self._learning_rate, weight_decay=self._weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def class_weights(sources: NDArray[np.str_], toxic: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n] weights with mean 1 in every source, and the same sum for both of its classes.

    Raises:
        ValueError: a source with one class.
    """
    weights = np.empty(len(toxic))
    for name in np.unique(sources):
        here = sources == name
        for wanted in (True, False):
            members = here & (toxic == wanted)
            if not members.any():
                kind = "positive" if wanted else "negative"
                raise ValueError(f"texts.{name}: no text is {kind}; check the field and values of its label")
            weights[members] = here.sum() / (2 * members.sum())
    return weights
