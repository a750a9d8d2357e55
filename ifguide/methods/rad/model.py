"""A unidirectional reward model: how toxic every beginning of a text is."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from ifguide.hardware import FLOAT32
from ifguide.models import implementations, load_model

HEAD_FILE = "head.safetensors"


class RewardModel(nn.Module):
    """The body of a causal language model and a linear head: the toxicity of each beginning of a text.

    Nothing keeps its output within [0, 1]: it is trained by squared error, and clamped where it is used.
    """

    def __init__(self, body: PreTrainedModel) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.config.hidden_size, 1, dtype=body.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, 0.5)

    def forward(self, input_ids: Tensor, **options: Any) -> Tensor:
        """[B, T] toxicities of [B, T] tokens; `options` (cache, mask, positions) are the body's."""
        toxicity: Tensor = self.head(self.body(input_ids=input_ids, **options).last_hidden_state)
        return toxicity[..., 0]

    def save_pretrained(self, directory: Path) -> None:
        """Write the body as a Hugging Face folder, and the head beside it."""
        self.body.save_pretrained(directory)
        save_file({name: value.contiguous() for name, value in self.head.state_dict().items()}, directory / HEAD_FILE)


def load_reward_model(
    start: str | Path,
    *,
    attention: str = "sdpa",
    trust_remote_code: bool = False,
    experts_implementation: str | None = None,
    dtype: str = FLOAT32,
) -> RewardModel:
    """A reward model's folder; or the body of a causal language model with a new head (0.5 everywhere)."""
    head = Path(start) / HEAD_FILE
    if not head.is_file():
        options = {"trust_remote_code": trust_remote_code, "experts_implementation": experts_implementation}
        causal = load_model(start, attention=attention, dtype=dtype, **options)  # type: ignore[arg-type]
        return RewardModel(causal.base_model)  # type: ignore[arg-type]
    body = AutoModel.from_pretrained(
        start,
        dtype=getattr(torch, dtype),
        trust_remote_code=trust_remote_code,
        **implementations(attention, experts_implementation),
    )
    model = RewardModel(body)
    model.head.load_state_dict(load_file(head))
    return model
