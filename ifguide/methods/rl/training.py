"""Training by policy gradients: a model writes, a classifier rewards, the model learns from both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import argument, check_number, check_seed, check_whole_number
from ifguide.classifiers import Classifier, ClassifierSettings
from ifguide.classifiers.base import TOXICITY
from ifguide.decoding import Nucleus
from ifguide.decoding.generation import decode_continuations, sample_continuations
from ifguide.methods.rl.estimators import Estimator
from ifguide.methods.rl.loss import divergence
from ifguide.methods.rl.rollouts import PromptExamples, join, rewards_of
from ifguide.methods.samples import Sampling
from ifguide.objectives.language_modeling import token_losses
from ifguide.training.context import TrainingContext
from ifguide.training.fit import train_on_examples
from ifguide.training.module import OptimizedModule
from ifguide.training.optimization import Optimization
from ifguide.training.predictions import FrozenCopy

MEASURED = ("reward", "kl", "new_tokens")  # means over samples; kl in nats per continuation


class PolicyModule(OptimizedModule):
    """Trains a policy on continuations that it samples for batches of `PromptExamples`.

    Args:
        model: the policy, in evaluation mode: without dropout it learns from what it samples from.
        reference: a frozen copy of where it began.
        optimization, steps, seed: as in `OptimizedModule`.
        estimator, sampling, logit_limit, inner_epochs: see `PolicyGradient`.
        classifier: who rewards.
        tokenizer: of the model.
        fused: as in `predictions`.

    Attributes:
        curve: a row of `MEASURED` for every time that it sampled.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel,
        optimization: Optimization,
        *,
        estimator: Estimator,
        sampling: Sampling,
        logit_limit: float | None,
        inner_epochs: int,
        classifier: Classifier,
        tokenizer: PreTrainedTokenizerFast,
        steps: int,
        seed: int,
        fused: bool | None = None,
    ) -> None:
        super().__init__(model, optimization, steps=steps, seed=seed, fused=fused)
        self._policy = [model]
        self._reference = FrozenCopy(reference, lambda: self.model, fused=fused)
        self._estimator, self._sampling, self._logit_limit = estimator, sampling, logit_limit
        self._inner_epochs, self._classifier, self._tokenizer = inner_epochs, classifier, tokenizer
        self._samples: dict[int, dict[str, Tensor]] = {}  # micro-batch → what was sampled in this or an earlier step
        self.curve: list[list[float]] = []

    def training_step(self, batch: Mapping[str, Tensor], batch_index: int) -> Tensor:
        step, part = divmod(batch_index, self.trainer.accumulate_grad_batches)
        if step % self._inner_epochs == 0:
            self._samples[part] = self.sample(batch, [self._sampling.seed, batch_index, self.global_rank])
            self._measure(self._samples[part])
        samples = {name: value.to(self.device) for name, value in self._samples[part].items()}
        return super().training_step(samples, batch_index)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self._estimator.loss(
            -token_losses(self._predict(batch["input_ids"]), batch["input_ids"]),
            batch["old"],
            batch["reference"],
            batch["response"],
            batch["rewards"],
        )

    @torch.no_grad()
    def sample(self, batch: Mapping[str, Tensor], seed: Sequence[int]) -> dict[str, Tensor]:
        """Continuations of a batch of prompts with their rewards: a pure function of the weights and the seed.

        Returns:
            `input_ids`, `response`, `old` and `reference` [B, T], `rewards` [P, S], as in `leave_one_out_loss`.
        """
        pairs = zip(batch["input_ids"].tolist(), batch["lengths"].tolist(), strict=True)
        prompts = [ids[:length] for ids, length in pairs]
        (policy,), end = self._policy, self._tokenizer.eos_token_id
        with torch.autocast(self.device.type, enabled=False):  # rounded less, a cache is known to be right
            tokens_PSN = sample_continuations(
                policy,
                prompts,
                decoder=Nucleus(top_p=self._sampling.top_p),
                samples=self._sampling.samples,
                max_new_tokens=self._sampling.max_new_tokens,
                end_of_text=end,
                rows=self._sampling.rows,
                seed=int(np.random.SeedSequence(seed).generate_state(1)[0]),
            )
        texts = decode_continuations(prompts, tokens_PSN, self._tokenizer)
        scores = self._classifier([text for of_prompt in texts for text in of_prompt])[TOXICITY]
        rewards = torch.from_numpy(rewards_of(scores, self._logit_limit)).view(len(prompts), -1)
        ids, response = (value.to(self.device) for value in join(prompts, tokens_PSN, end))
        old, of_reference = (-token_losses(predict(ids), ids) for predict in (self._predict, self._reference))
        torch.clear_autocast_cache()  # before torch 2.10 the loss would take weights from it that have no gradient
        return {
            "input_ids": ids,
            "response": response,
            "old": old,
            "reference": of_reference,
            "rewards": rewards.to(old),
        }

    def _measure(self, samples: Mapping[str, Tensor]) -> None:
        response = samples["response"]
        kl = (divergence(samples["old"], samples["reference"]) * response).sum(1).mean()
        means = torch.stack([samples["rewards"].mean(), kl, response.sum(1).to(kl).mean()])
        means = self.trainer.strategy.reduce(means, reduce_op="mean")
        self.curve.append(means.tolist())
        self.log_dict({f"train/{name}": value for name, value in zip(MEASURED, means, strict=True)})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["samples"], checkpoint["curve"] = self._samples, self.curve

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._samples, self.curve = checkpoint["samples"], checkpoint["curve"]


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """A trained model learns from its own continuations, without dropout and without a network of values.

    Each optimiser step samples continuations of a batch of prompts and learns from them; with several inner epochs so
    many steps in a row learn from those of the first of them.

    Args:
        optim: how it is optimised; it counts prompts where it speaks of blocks.
        estimator: `LeaveOneOut` or `GroupRelative`.
        classifier: who rewards; best another one than evaluates.
        sampling: how often and how far each prompt is continued.
        logit_limit: None: the reward is 1 − p(toxic); a number c: the logit of that, clipped to [−c, c].
        inner_epochs: optimiser steps for each batch of samples; above 1 in one process only.
        seed: of the order of the prompts.

    Raises:
        ValueError: an argument out of range.
    """

    NOT_SETTINGS: ClassVar[tuple[str, ...]] = ("classifier",)  # an artifact of its own, which this is made from

    optim: Optimization
    estimator: Estimator
    classifier: ClassifierSettings
    sampling: Sampling
    logit_limit: float | None = None
    inner_epochs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_whole_number("inner_epochs", self.inner_epochs, least=1)
        if self.optim.epochs == 0:
            raise ValueError("optim.epochs=0: nothing is learned; leave the post-training out")
        if self.logit_limit is not None:
            check_number("logit_limit", self.logit_limit, above=0)
        with argument("sampling"):
            if self.sampling.samples < 2:
                raise ValueError(f"samples={self.sampling.samples}: samples of a prompt are compared; 2 or more")
            if self.sampling.top_p != 1:
                raise ValueError(
                    f"top_p={self.sampling.top_p}: a policy gradient is of what the model itself samples; 1"
                )

    def check(self, prompts: int) -> None:
        """Raise ValueError where so many prompts are too few to learn from."""
        with argument("optim"):
            self.optim.steps(prompts, "prompts")

    def train(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        classifier: Classifier,
        tokenizer: PreTrainedTokenizerFast,
        context: TrainingContext,
    ) -> dict[str, Any]:
        """Train a model in place; the caller saves it (`save_trained`).

        Args:
            model: the policy, at the weights of the reference.
            reference: another copy of it.
            prompts: token ids of each.
            classifier: who rewards, loaded.
            tokenizer: of the model.
            context: where it is computed, and keeps its checkpoints.

        Returns:
            Facts: prompts, steps, the last loss; and for each of `MEASURED` two numbers, its mean over the first and
            over the last tenth of the times that it sampled.
        """
        module = PolicyModule(
            model.eval(),
            reference,
            self.optim,
            estimator=self.estimator,
            sampling=self.sampling,
            logit_limit=self.logit_limit,
            inner_epochs=self.inner_epochs,
            classifier=classifier,
            tokenizer=tokenizer,
            steps=self.optim.steps(len(prompts)),
            seed=self.seed,
            fused=context.trainer.fused_loss,
        )
        examples = PromptExamples(prompts)
        facts = train_on_examples(
            lambda steps: module, self.optim, context, examples=examples, validation=None, seed=self.seed
        )
        curve = np.array(module.curve)
        tenth = -(-len(curve) // 10)
        ends = np.stack([curve[:tenth].mean(0), curve[-tenth:].mean(0)], 1).tolist()
        return {"prompts": len(prompts), **facts, **dict(zip(MEASURED, ends, strict=True))}
