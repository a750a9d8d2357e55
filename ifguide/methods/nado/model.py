"""R̂ as a light head on a language model's last hidden states."""

from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ifguide.methods.nado.loss import relative_log_odds
from ifguide.workspace import read_json, write_json

WEIGHTS_FILE, SETTINGS_FILE = "guidance.safetensors", "guidance.json"
CERTAIN = 1e-3  # a base rate is kept this far from 0 and 1

# H hidden size, V vocabulary


class GuidanceHead(nn.Module):
    """Hidden states → log-odds of R̂ for every next token. At first R̂ is the base rate whatever comes next.

    Args:
        hidden_size: H of the language model.
        vocabulary: V of the language model.
        width: units of a layer between the hidden states and the log-odds; 0: none, the head is linear.
        relative: R̂ is relative to the best next token's, see `relative_log_odds`.
        base_rate: share of the texts that have the label.
    """

    def __init__(
        self, hidden_size: int, vocabulary: int, *, width: int = 0, relative: bool = False, base_rate: float = 0.5
    ) -> None:
        super().__init__()
        self.settings = {"hidden_size": hidden_size, "vocabulary": vocabulary, "width": width, "relative": relative}
        self.features = nn.Sequential(nn.Linear(hidden_size, width), nn.GELU()) if width else nn.Identity()
        self.tokens = nn.Linear(width or hidden_size, vocabulary)
        self.best = nn.Linear(width or hidden_size, 1) if relative else None
        rate = min(max(base_rate, CERTAIN), 1 - CERTAIN)
        for layer in (self.tokens, self.best):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.constant_((self.tokens if self.best is None else self.best).bias, log(rate / (1 - rate)))

    def forward(self, hidden_H: Tensor) -> Tensor:
        """[..., H] → [..., V]."""
        features = self.features(hidden_H)
        scores: Tensor = self.tokens(features)
        return scores if self.best is None else relative_log_odds(scores, self.best(features))

    def save(self, directory: Path) -> None:
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, directory / WEIGHTS_FILE)
        write_json(directory / SETTINGS_FILE, self.settings)

    @staticmethod
    def load(directory: Path) -> "GuidanceHead":
        """What `save` wrote."""
        head = GuidanceHead(**read_json(directory / SETTINGS_FILE))
        head.load_state_dict(load_file(directory / WEIGHTS_FILE))
        return head


def new_head(model: PreTrainedModel, *, width: int, relative: bool, base_rate: float, seed: int) -> GuidanceHead:
    """A head for a language model, in float32."""
    embeddings: Any = model.get_output_embeddings()
    vocabulary, hidden_size = map(int, embeddings.weight.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GuidanceHead(hidden_size, vocabulary, width=width, relative=relative, base_rate=base_rate)


def read(model: nn.Module, input_ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] of a language model, and what its output head reads, [B, T, H]."""
    out = model(input_ids=input_ids_BT, use_cache=False, output_hidden_states=True)
    return out.logits, out.hidden_states[-1]


class GuidedModel(nn.Module):
    """A language model whose logits are the log-odds of R̂, for `NextLogits`: of the last token only."""

    def __init__(self, model: PreTrainedModel, head: GuidanceHead) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.config, self.dtype = model.config, model.dtype

    def forward(self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
        out: Any = self.model(
            input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache, output_hidden_states=True
        )
        last = out.hidden_states[-1][:, -1:]
        return SimpleNamespace(logits=self.head(last.to(self.head.tokens.weight.dtype)))
