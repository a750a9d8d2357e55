"""A unidirectional reward model: how toxic every beginning of a text is (RAD; Deng and Raffel, 2023)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import check_labelled, encode_texts
from ifguide.corpus.tokenizers import vocabulary_size
from ifguide.models import check_vocabulary, load_model
from ifguide.objectives.prefix_reward import cumulative_squared_error
from ifguide.training.auxiliary import Auxiliary, tokenizer_of
from ifguide.training.data import hold_out, pad
from ifguide.training.fit import Hardware, remove_checkpoints, train_on_examples
from ifguide.training.module import OptimizedModule
from ifguide.workspace import global_rank

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
        return self.head(self.body(input_ids=input_ids, **options).last_hidden_state)[..., 0]

    def save(self, directory: Path) -> None:
        """Write the body as a Hugging Face folder, and the head beside it."""
        self.body.save_pretrained(directory)
        save_file({name: value.contiguous() for name, value in self.head.state_dict().items()}, directory / HEAD_FILE)


def load_reward_model(start: str | Path, *, attention: str = "sdpa", trust_remote_code: bool = False) -> RewardModel:
    """A reward model's folder; or the body of a causal language model with a new head (0.5 everywhere)."""
    head = Path(start) / HEAD_FILE
    if not head.is_file():
        causal = load_model(start, attention=attention, trust_remote_code=trust_remote_code)
        return RewardModel(causal.base_model)  # type: ignore[arg-type]
    body = AutoModel.from_pretrained(
        start, attn_implementation=attention, dtype=torch.float32, trust_remote_code=trust_remote_code
    )
    model = RewardModel(body)
    model.head.load_state_dict(load_file(head))
    return model


class RewardModule(OptimizedModule):
    """Trains a `RewardModel` on batches of `TextExamples`."""

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        rewards = self.model(batch["input_ids"], use_cache=False)
        return cumulative_squared_error(rewards.float(), batch["toxicity"], batch["scored"])


class TextExamples:
    """Rows → `input_ids` [rows, T], `scored` [rows, T] (not the first token, nor padding), `toxicity` [rows]."""

    def __init__(self, ids: Sequence[NDArray[np.int64]], toxicity: NDArray[np.float32]) -> None:
        self._ids, self._toxicity = ids, toxicity

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        ids, valid = pad([self._ids[row] for row in rows])
        valid[:, 0] = False
        return {"input_ids": ids, "scored": valid, "toxicity": torch.from_numpy(self._toxicity[rows])}


@dataclass(frozen=True)
class RewardTraining(Auxiliary):
    """Training of a reward model.

    Args:
        optim, pretrained, validation, seed: as in `Auxiliary`; `optim` counts texts where it speaks of blocks, and what
            is continued may be a causal language model or a reward model, with a tokenizer of its own.
        max_length: tokens read of each text.
    """

    stage: ClassVar[str] = "reward"
    continues: ClassVar[str] = "proxy"

    max_length: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 2:
            raise ValueError(f"decoding.reward.max_length={self.max_length}: at least 2 tokens")

    def check(self, texts: Sequence[LabelledText]) -> None:
        """See `Auxiliary`."""
        check_labelled(texts)
        if self.optim.epochs == 0 and (self.pretrained is None or not (Path(self.pretrained) / HEAD_FILE).is_file()):
            raise ValueError(
                f"decoding.reward.optim.epochs=0 keeps decoding.reward.pretrained={self.pretrained} as it is, which "
                f"has no trained head ({HEAD_FILE}) and would rate everything alike; train it, or name a reward model"
            )

    def check_corpus(
        self, texts: Sequence[LabelledText], tokenizer: PreTrainedTokenizerFast, block_length: int
    ) -> None:
        """See `Auxiliary`."""
        train, _ = hold_out(len(texts), self.validation, self.seed)
        self.optim.steps(len(train), "labelled texts", "decoding.reward.optim")

    def train(
        self,
        start: str | Path,
        texts: Sequence[LabelledText],
        *,
        tokenizer: PreTrainedTokenizerFast,
        block_length: int,
        hardware: Hardware,
        directory: Path,
        logger: Logger | None = None,
        callbacks: Sequence[pl.Callback] = (),
        attention: str = "sdpa",
        trust_remote_code: bool = False,
    ) -> dict[str, Any]:
        """See `Auxiliary`; leaves a `RewardModel`'s folder with its tokenizer."""
        tokenizer = tokenizer_of(start, tokenizer)
        model = load_reward_model(start, attention=attention, trust_remote_code=trust_remote_code)
        check_vocabulary(model.body, vocabulary_size(tokenizer))
        longest = getattr(model.body.config, "max_position_embeddings", self.max_length)
        ids = encode_texts([text.text for text in texts], tokenizer, min(self.max_length, longest))
        toxicity = np.array([text.toxicity for text in texts], dtype=np.float32)
        train, held = (
            TextExamples([ids[row] for row in rows], toxicity[rows])
            for rows in hold_out(len(ids), self.validation, self.seed)
        )
        model.train()
        facts = train_on_examples(
            lambda steps: RewardModule(model, self.optim, steps=steps, seed=self.seed),
            self.optim,
            hardware,
            examples=train,
            validation=held,
            seed=self.seed,
            directory=directory,
            logger=logger,
            callbacks=callbacks,
        )
        if global_rank() == 0:
            model.save(directory)
            tokenizer.save_pretrained(directory)
            remove_checkpoints(directory)
        return {"texts": len(train), **facts}
