"""How deep a suppression goes: the toxic text after which a model is toxic again.

A copy of the finished model is fine-tuned on toxic text at a fixed learning rate; after a fixed schedule of steps it
continues the prompts, and a classifier judges. Suppression that only hides a behaviour comes back in a few steps. How
many tokens it takes to half of, and to, the uncensored model's level is said where rows are compared.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import argument, check_number, check_seed, check_whole_number
from ifguide.classifiers import Classifier
from ifguide.classifiers.base import TOXICITY
from ifguide.corpus.blocks import Split
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import pack_texts
from ifguide.corpus.queries import check_texts_disjoint
from ifguide.decoding import Nucleus
from ifguide.decoding.generation import continue_prompts, decode_continuations
from ifguide.decoding.nucleus import check_top_p
from ifguide.evaluation.fluency import Metrics
from ifguide.evaluation.task import Continuations
from ifguide.evaluation.toxicity import classify_continuations, prompt_metrics
from ifguide.objectives.language_modeling import cross_entropy
from ifguide.opening import check_context, check_new_tokens
from ifguide.statistics import proportion_interval
from ifguide.training.predictions import predictions

LOW_PRECISION = (torch.float16, torch.bfloat16)  # small steps would be lost in their rounding


@dataclass(frozen=True, kw_only=True)
class Relearning:
    """Toxic fraction over steps of fine-tuning on toxic text (AdamW, constant rate, no weight decay, no dropout).

    Args:
        texts: labelled texts; the toxic ones are learned.
        task: the prompts that are continued at every point, and how.
        judge: name of the classifier, of those that the evaluation has.
        learning_rate: the same in every step.
        steps: after how many steps the prompts are continued; the first is 0, the model itself.
        batch_size: blocks per step.
        block_length: tokens per block.
        top_p: probability of the nucleus.
        seed: of the order of the blocks and of the sampling.

    Raises:
        ValueError: a setting out of range, no toxic text, or a prompt that is the beginning of one.
    """

    NOT_SETTINGS: ClassVar = ("judge",)  # the classifier itself is an input of the measurement

    texts: Iterable[LabelledText]
    task: Continuations
    judge: str
    learning_rate: float
    steps: Sequence[int] = (0, 2, 8, 32, 128)
    batch_size: int = 8
    block_length: int = 128
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, above=0)
        check_whole_number("batch_size", self.batch_size, least=1)
        check_whole_number("block_length", self.block_length, least=2)  # the first token of a block is not predicted
        check_top_p(self.top_p)
        check_seed(self.seed)
        rising = all(type(step) is int for step in self.steps) and list(self.steps) == sorted(set(self.steps))
        if not rising or len(self.steps) < 2 or self.steps[0] != 0:
            raise ValueError(f"steps={list(self.steps)}: two whole numbers or more that rise from 0, as [0, 1, 2, 4]")
        if not self.learned:
            raise ValueError("texts: there is no toxic one, so nothing to learn again")
        check_texts_disjoint(self.learned, self.task.prompts, "texts")

    @cached_property
    def learned(self) -> list[str]:
        """The toxic texts, each once."""
        with argument("texts"):
            return list(dict.fromkeys(row.text for row in self.texts if row.toxic))

    def check(self, tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> None:
        """Raise ValueError where a model of this configuration cannot be measured, before it is trained."""
        check_context(config, self.block_length, "block_length")
        with argument("task"):
            check_new_tokens(config, self.task.max_new_tokens)
        blocks = len(pack_texts(self.learned, tokenizer, self.block_length))
        if blocks < self.batch_size:
            raise ValueError(
                f"batch_size={self.batch_size}: the toxic texts fill {blocks} blocks of {self.block_length} tokens; "
                "give more texts, or smaller batches"
            )

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, classifier: Classifier) -> Metrics:
        """The curve, under `all`; the model itself is left as it is.

        Returns:
            `curve_steps`, `curve_tokens` (read so far), `curve_toxic_fraction`, `curve_low` and `curve_high` (its
            interval over prompts): lists of a number for each point; the ends of the curve as `toxic_fraction_before`
            and `toxic_fraction_after` with their `…_interval`; `prompts`, and `blocks` of toxic text.

        Raises:
            ValueError: as `check`.
        """
        self.check(tokenizer, model.config)
        blocks = pack_texts(self.learned, tokenizer, self.block_length)
        learner: Any = copy.deepcopy(model)
        learner = (learner.float() if learner.dtype in LOW_PRECISION else learner).requires_grad_()
        means, intervals = [], []
        for _ in tqdm(
            self.points(learner, blocks), desc="Relearning", total=len(self.steps), leave=False, disable=None
        ):
            values_P = self.toxic_fractions(learner, tokenizer, classifier)
            means.append(float(values_P.mean()))
            intervals.append(proportion_interval(values_P[None]))
        metrics: dict[str, Any] = {"prompts": len(self.task.prompts), "blocks": len(blocks)}
        for name, place in (("toxic_fraction_before", 0), ("toxic_fraction_after", -1)):
            metrics |= {name: means[place], f"{name}_interval": intervals[place]}
        metrics |= {
            "curve_steps": list(self.steps),
            "curve_tokens": [step * self.batch_size * self.block_length for step in self.steps],
            "curve_toxic_fraction": means,
            "curve_low": [low for low, _ in intervals],
            "curve_high": [high for _, high in intervals],
        }
        return {"all": metrics}

    def points(self, learner: PreTrainedModel, blocks: Split) -> Iterator[int]:
        """Fine-tune in place; stops, and yields the step, at every one of `steps`."""
        optimizer = torch.optim.AdamW(learner.parameters(), lr=self.learning_rate, weight_decay=0.0)
        batches, predict = self.batches(len(blocks)), predictions(learner)
        for step in range(self.steps[-1] + 1):
            if step:
                learner.eval()  # no dropout: every model, and every point, sees the same noise, which is none
                ids_BT = torch.from_numpy(blocks.tokens(next(batches))).to(learner.device)
                with torch.enable_grad():
                    loss: Tensor = cross_entropy(predict(ids_BT), ids_BT)
                    optimizer.zero_grad()
                    loss.backward()
                if not loss.isfinite():
                    raise ValueError(f"learning_rate={self.learning_rate}: the loss is {float(loss)} at step {step}")
                optimizer.step()
            if step in self.steps:
                yield step

    def batches(self, blocks: int) -> Iterator[NDArray[np.int64]]:
        """Rows of each batch: pass after pass, each in an order of its own, without the rest that fills no batch."""
        rng = np.random.default_rng(self.seed)
        while True:
            order = rng.permutation(blocks)[: blocks // self.batch_size * self.batch_size]
            yield from order.reshape(-1, self.batch_size)

    def toxic_fractions(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, classifier: Classifier
    ) -> NDArray[np.float64]:
        """Share of toxic continuations of each prompt, [P]; every point draws the same random numbers."""
        task = self.task
        prompts, tokens_PST = continue_prompts(
            model, tokenizer, task.prompts, decoder=Nucleus(top_p=self.top_p), samples=task.samples,
            max_new_tokens=task.max_new_tokens, rows=task.rows, seed=self.seed,
        )  # fmt: skip
        texts = decode_continuations(prompts, tokens_PST, tokenizer)
        return prompt_metrics(classify_continuations(texts, classifier)[TOXICITY])["toxic_fraction"]
