"""Whether a model still knows what is toxic: a linear probe on its hidden states (Alain and Bengio, 2016).

A model that speaks no toxic language may, or may not, tell it apart. The probe is one logistic regression on the mean
over a text's tokens of the last layer's hidden states; nothing of the model is trained. No verbaliser or prompt has to
suit the model, so small models can be asked too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import argument, check_number, check_whole_number
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import hash_fraction
from ifguide.corpus.tokenizers import beginning_of_text
from ifguide.evaluation.fluency import Metrics
from ifguide.statistics import roc_auc, roc_auc_interval

RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class ToxicityProbe:
    """ROC AUC of a linear probe on labelled texts that it was not fitted on.

    Args:
        texts: name → labelled texts.
        held_out: share of the texts (by a hash of the text, so the same for every model) that is judged.
        penalty: weight of ½‖w‖² beside the mean loss; features are scaled to mean 0 and variance 1.
        max_length: tokens of a text that are read.
        batch_size: texts at a time.

    Raises:
        ValueError: a setting out of range, or a class that is missing on one side of the split.
    """

    NOT_SETTINGS: ClassVar = ("batch_size",)

    texts: Mapping[str, Iterable[LabelledText]]
    held_out: float = 0.3
    penalty: float = 1e-2
    max_length: int = 128
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("max_length", "batch_size"):
            check_whole_number(name, getattr(self, name), least=1)
        if not self.texts:
            raise ValueError("texts: there is no labelled text")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: a share above 0 and below 1")
        check_number("penalty", self.penalty, above=0)
        for side, members in (("fitted on", ~self.is_held_out), ("judged", self.is_held_out)):
            if len({row.toxic for row, member in zip(self.rows, members, strict=True) if member}) < 2:
                raise ValueError(f"texts: the texts that a probe is {side} need both toxic and other ones")

    @cached_property
    def rows(self) -> list[LabelledText]:
        """All distinct texts."""
        found: dict[str, LabelledText] = {}
        for name, source in self.texts.items():
            with argument(f"texts.{name}"):
                found |= {row.text: row for row in source}
        return list(found.values())

    @cached_property
    def is_held_out(self) -> NDArray[np.bool_]:
        return np.array([hash_fraction(row.text) < self.held_out for row in self.rows], dtype=bool)

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Metrics:
        """`roc_auc` with its interval (bootstrap over held-out texts), `fitted_on` and `judged` texts, of `all`."""
        rows, out = self.rows, self.is_held_out
        toxic = np.array([row.toxic for row in rows])
        states = mean_hidden_states(
            model, tokenizer, [row.text for row in rows], max_length=self.max_length, batch_size=self.batch_size
        )
        mean, scale = states[~out].mean(0), states[~out].std(0).clamp(min=1e-6)
        states = (states - mean) / scale
        weight, bias = fit_logistic(states[~out], torch.from_numpy(toxic[~out]), penalty=self.penalty)
        scores, positive = (states[out] @ weight + bias).numpy(), toxic[out]
        return {
            "all": {
                "roc_auc": roc_auc(scores, positive),
                "roc_auc_interval": roc_auc_interval(scores, positive, resamples=RESAMPLES),
                "fitted_on": int((~out).sum()),
                "judged": int(out.sum()),
            }
        }


@torch.no_grad()
def mean_hidden_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    max_length: int,
    batch_size: int,
) -> Tensor:
    """[texts, hidden] means over a text's tokens of the last layer's states, in float64 on the CPU.

    What a text begins after (`beginning_of_text`) is not in the mean.
    """
    model.eval()
    longest = min(max_length + 1, getattr(model.config, "max_position_embeddings", max_length + 1))
    start = beginning_of_text(tokenizer, model.config)
    encodings = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ids = [[start, *encoding.ids][:longest] for encoding in encodings]
    order = np.argsort([-len(tokens) for tokens in ids], kind="stable")
    states = None
    for first in tqdm(range(0, len(ids), batch_size), desc="Probe", leave=False, disable=None):
        rows = order[first : first + batch_size]
        width = len(ids[rows[0]])
        batch = torch.tensor([ids[row] + [0] * (width - len(ids[row])) for row in rows], device=model.device)
        lengths = torch.tensor([len(ids[row]) for row in rows], device=model.device)
        places = torch.arange(width, device=model.device)
        inside = (places > 0) & (places < lengths[:, None])
        hidden = model(input_ids=batch, use_cache=False, output_hidden_states=True).hidden_states[-1].double()
        means = (hidden * inside[..., None]).sum(1) / inside.sum(1).clamp(min=1)[:, None]
        if states is None:
            states = torch.zeros(len(ids), means.shape[1], dtype=torch.float64)
        states[rows] = means.cpu()
    assert states is not None
    return states


def fit_logistic(states: Tensor, toxic: Tensor, *, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights [hidden] and bias that minimise mean log-loss + ½ penalty ‖w‖², by Newton's method (it is convex)."""
    features = torch.cat([states, torch.ones(len(states), 1, dtype=states.dtype)], dim=1)
    ridge = torch.full((features.shape[1],), penalty, dtype=states.dtype)
    ridge[-1] = 0
    target, weight = toxic.to(states.dtype), torch.zeros(features.shape[1], dtype=states.dtype)

    def loss(weight: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(features @ weight, target) + (ridge * weight**2).sum() / 2

    for _ in range(50):
        p = torch.sigmoid(features @ weight)
        gradient = features.T @ (p - target) / len(target) + ridge * weight
        if gradient.norm() < 1e-10:
            break
        hessian = (features * (p * (1 - p))[:, None]).T @ features / len(target) + torch.diag(ridge)
        step = torch.linalg.lstsq(hessian, gradient).solution
        length = 1.0
        while loss(weight - length * step) > loss(weight) and length > 1e-6:
            length /= 2
        weight = weight - length * step
    return weight[:-1], weight[-1]
