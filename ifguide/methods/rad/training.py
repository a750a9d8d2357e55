"""Training of RAD's reward model on labelled texts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ifguide.checks import argument, check_whole_number
from ifguide.corpus.documents import LabelledText, Query
from ifguide.corpus.labelled import check_labelled, encode_texts
from ifguide.corpus.padding import pad
from ifguide.corpus.tokenizers import vocabulary_size
from ifguide.methods.rad.loss import cumulative_squared_error
from ifguide.methods.rad.model import HEAD_FILE, load_reward_model
from ifguide.models import LoadOptions, check_vocabulary
from ifguide.training.auxiliary import ContinuedModel, tokenizer_of
from ifguide.training.context import TrainingContext, save_trained
from ifguide.training.data import hold_out
from ifguide.training.fit import train_on_examples
from ifguide.training.module import OptimizedModule


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
class RewardTraining(ContinuedModel):
    """Training of a reward model.

    Args:
        optim, pretrained, validation, seed: as in `ContinuedModel`; `optim` counts texts where it speaks of blocks,
            and what is continued may be a causal language model or a reward model, with a tokenizer of its own.
        max_length: tokens read of each text, with its prompt.
        queries: before each text stands the prompt of one of these, at random, so that the verdict is on what follows a
            prompt, as a decoder asks for it. Without any, texts are read alone.
    """

    LEFT_OUT_AT_DEFAULT: ClassVar = ("queries",)

    setting: ClassVar[str] = "reward"
    continues: ClassVar[str] = "proxy"

    max_length: int = 1024
    queries: Sequence[Query] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_number("max_length", self.max_length, least=2)

    def check(self, texts: Sequence[LabelledText]) -> None:
        """See `LabelledAuxiliary`."""
        check_labelled(texts)
        if self.optim.epochs == 0 and (self.pretrained is None or not (Path(self.pretrained) / HEAD_FILE).is_file()):
            raise ValueError(
                f"optim.epochs=0 keeps pretrained={self.pretrained} as it is, which has no trained head ({HEAD_FILE}) "
                "and would rate everything alike; train it, or name a reward model"
            )

    def prompted(self, texts: Sequence[str]) -> list[str]:
        """Each text, after a random prompt of the queries where there are any."""
        prompts = list(dict.fromkeys(query.prompt.rstrip() for query in self.queries if query.prompt.strip()))
        if not prompts:
            return list(texts)
        drawn = np.random.default_rng(self.seed).integers(len(prompts), size=len(texts))
        return [f"{prompts[place]} {text.lstrip()}" for place, text in zip(drawn, texts, strict=True)]

    def check_corpus(
        self, texts: Sequence[LabelledText], tokenizer: PreTrainedTokenizerFast, block_length: int
    ) -> None:
        """See `LabelledAuxiliary`."""
        train, _ = hold_out(len(texts), self.validation, self.seed)
        with argument("optim"):
            self.optim.steps(len(train), "labelled texts")

    def train(
        self,
        start: str | Path,
        texts: Sequence[LabelledText],
        *,
        tokenizer: PreTrainedTokenizerFast,
        block_length: int,
        context: TrainingContext,
        options: LoadOptions,
    ) -> dict[str, Any]:
        """See `LabelledAuxiliary`; leaves a `RewardModel`'s folder with its tokenizer."""
        tokenizer = tokenizer_of(start, tokenizer)
        model = load_reward_model(start, **asdict(options))
        check_vocabulary(model.body, vocabulary_size(tokenizer))
        longest = getattr(model.body.config, "max_position_embeddings", self.max_length)
        read = self.prompted([text.text for text in texts])
        ids = encode_texts(read, tokenizer, min(self.max_length, longest), model.body.config)
        toxicity = np.array([text.toxicity for text in texts], dtype=np.float32)
        train, held = (
            TextExamples([ids[row] for row in rows], toxicity[rows])
            for rows in hold_out(len(ids), self.validation, self.seed)
        )
        model.train()
        facts = train_on_examples(
            lambda steps: RewardModule(model, self.optim, steps=steps, seed=self.seed),
            self.optim,
            context,
            examples=train,
            validation=held,
            seed=self.seed,
        )
        save_trained(model, tokenizer, context.directory)
        return {"texts": len(train), **facts}
