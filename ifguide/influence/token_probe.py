"""Token scores of a small bidirectional probe that learns which tokens are toxic from texts that are.

Labels are of whole texts. The probe gives every token a probability, these are pooled to one of the text, and that is
held against the label: multiple-instance learning. Rathi and Radford (2026, arXiv 2601.21571) put a linear probe on a
pair of small language models, one for each direction; here a convolution over embeddings sees both sides of a token,
and no language model is needed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from ifguide.checks import check_number, check_seed, check_whole_number
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import encode_texts, hash_fraction
from ifguide.corpus.padding import pad
from ifguide.corpus.tokenizers import vocabulary_size
from ifguide.statistics import roc_auc
from ifguide.workspace import read_json

WEIGHTS, SHAPE = "probe.safetensors", "probe.json"
POOLINGS = ("noisy_or", "max", "mean")
RARE = -3.0  # log-odds of a token before anything is learned: few are toxic
SMALLEST = 1e-6  # that a logarithm is taken of

# B texts or blocks, T tokens


def text_log_probabilities(logits_BT: Tensor, counted_BT: Tensor, *, pooling: str) -> tuple[Tensor, Tensor]:
    """log p and log(1 − p) of each text, [B] both, from the log-odds z of its tokens.

    Args:
        logits_BT: z.
        counted_BT: tokens of the text, one at least.
        pooling: `noisy_or`: 1 − p = Π (1 − σ(z)), a text is toxic where one of its tokens is; `max`: p = σ(max z);
            `mean`: p = mean of σ(z).
    """
    if pooling == "noisy_or":
        none = (F.softplus(logits_BT) * counted_BT).sum(1).clamp(min=SMALLEST)  # −log(1 − p)
        return (-torch.expm1(-none)).log(), -none
    if pooling == "max":
        highest = logits_BT.masked_fill(~counted_BT, -torch.inf).amax(1)
        return F.logsigmoid(highest), F.logsigmoid(-highest)
    mean = (logits_BT.sigmoid() * counted_BT).sum(1) / counted_BT.sum(1)
    return mean.clamp(min=SMALLEST).log(), (1 - mean).clamp(min=SMALLEST).log()


class ProbeNetwork(nn.Module):
    """Log-odds of each token: embedding, a convolution over the tokens on both sides added to it, a linear layer.

    Args:
        vocabulary: token ids.
        width: of an embedding.
        kernel: tokens that the convolution sees, an odd number.
        end_of_text: id whose score is 0.
    """

    def __init__(self, *, vocabulary: int, width: int, kernel: int, end_of_text: int) -> None:
        super().__init__()
        self.shape = {"vocabulary": vocabulary, "width": width, "kernel": kernel, "end_of_text": end_of_text}
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.head = nn.Linear(width, 1)
        nn.init.constant_(self.head.bias, RARE)

    def forward(self, ids_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
        """[B, T]; where `real_BT` is false there is padding, which is read as nothing."""
        hidden = self.embedding(ids_BT)
        if real_BT is not None:
            hidden = hidden * real_BT[..., None]
        around = self.convolution(hidden.transpose(1, 2)).transpose(1, 2)
        logits: Tensor = self.head(hidden + F.gelu(around)).squeeze(-1)
        return logits

    @torch.no_grad()
    def scores(self, ids_BT: Tensor) -> Tensor:
        """Probabilities of one behaviour, [1, B, T]; column 0 is 0."""
        scores: Tensor = self(ids_BT).sigmoid().masked_fill(ids_BT == self.shape["end_of_text"], 0)
        scores[:, 0] = 0
        return scores[None]

    def save(self, directory: Path) -> None:
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, directory / WEIGHTS)
        (directory / SHAPE).write_text(json.dumps(self.shape), encoding="utf-8")

    @staticmethod
    def load(directory: Path) -> "ProbeNetwork":
        network = ProbeNetwork(**read_json(directory / SHAPE))
        network.load_state_dict(load_file(directory / WEIGHTS))
        return network.eval()


@dataclass(frozen=True, kw_only=True)
class TokenProbe:
    """How a probe is trained: AdamW on the binary cross-entropy of texts, in which both classes weigh the same.

    A fixed part of the texts (by a hash of the text) is kept out and judged.

    Args:
        width, kernel: see `ProbeNetwork`.
        pooling: of tokens to a text, see `text_log_probabilities`.
        epochs, learning_rate, batch_size: of the training; batches are texts.
        max_length: tokens of a text, the first ones.
        validation: share of the texts that is kept out.
        seed: of the first weights and of the order of the texts.

    Raises:
        ValueError: a setting out of range.
    """

    reads: ClassVar = "tokens"

    width: int = 32
    kernel: int = 5
    pooling: str = "noisy_or"
    epochs: int = 10
    learning_rate: float = 0.01
    batch_size: int = 32
    max_length: int = 128
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "kernel", "epochs", "batch_size"):
            check_whole_number(name, getattr(self, name), least=1)
        check_whole_number("max_length", self.max_length, least=2)
        check_number("learning_rate", self.learning_rate, least=0)
        check_seed(self.seed)
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: an odd number of tokens: one, and as many on either side")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling}; known: {', '.join(POOLINGS)}")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation}: a share above 0 and below 1")

    def fit(
        self, texts: Sequence[LabelledText], tokenizer: PreTrainedTokenizerFast
    ) -> tuple[ProbeNetwork, dict[str, Any]]:
        """A trained probe, and facts: texts, share of positive ones, and ROC AUC and percentiles of those kept out.

        Args:
            texts: of both kinds; texts without a token are left out.
            tokenizer: of the corpus.

        Raises:
            ValueError: one of the kinds is missing among the texts that are trained on.
        """
        encoded = encode_texts([text.text for text in texts], tokenizer, self.max_length)
        end = int(tokenizer.eos_token_id)
        ids_NT, real_NT, counted_NT = padded(encoded, end)
        toxic = torch.tensor([text.toxic for text in texts])
        out = torch.tensor([hash_fraction(text.text) < self.validation for text in texts])
        rows, held = (torch.nonzero(part & counted_NT.any(1)).flatten() for part in (~out, out))
        positive = int(toxic[rows].sum())
        if positive in (0, len(rows)):
            raise ValueError(f"labelled: {positive} of {len(rows)} texts to learn from are positive; both are needed")
        share = torch.tensor([len(rows) - positive, positive]) / len(rows)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = ProbeNetwork(
                vocabulary=vocabulary_size(tokenizer), width=self.width, kernel=self.kernel, end_of_text=end
            )
        steps = self.epochs * -(-len(rows) // self.batch_size)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=max(steps, 2))
        generator = torch.Generator().manual_seed(self.seed)

        def log_probabilities(batch: Tensor) -> tuple[Tensor, Tensor]:
            width = int(real_NT[batch].sum(1).max())
            real, counted = real_NT[batch, :width], counted_NT[batch, :width]
            return text_log_probabilities(network(ids_NT[batch, :width], real), counted, pooling=self.pooling)

        for _ in range(self.epochs):
            for batch in rows[torch.randperm(len(rows), generator=generator)].split(self.batch_size):
                shows, shows_not = log_probabilities(batch)
                loss = -torch.where(toxic[batch], shows, shows_not) / (2 * share[toxic[batch].long()])
                loss.mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        network.eval()
        facts: dict[str, Any] = {"texts": len(texts), "positive_share": float(toxic.float().mean())}
        if 0 < toxic[held].sum() < len(held):
            with torch.no_grad():
                judged = torch.cat([log_probabilities(batch)[0] for batch in held.split(1024)]).exp().double().numpy()
            facts |= {
                "kept_out": len(held),
                "roc_auc": roc_auc(judged, toxic[held].numpy()),
                "probabilities": np.percentile(judged, [5, 50, 95]).tolist(),
            }
        return network, facts

    def load(self, directory: Path) -> ProbeNetwork:
        return ProbeNetwork.load(directory)


def padded(encoded: Sequence[NDArray[np.int64]], end_of_text: int) -> tuple[Tensor, Tensor, Tensor]:
    """Texts as one batch, [texts, T] each: token ids, which of them are no padding, and which are of the text itself:
    neither what it begins after nor its end."""
    ids, real = pad(encoded)
    counted = real & (ids != end_of_text)
    counted[:, 0] = False
    return ids, real, counted
