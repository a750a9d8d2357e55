"""Which of two continuations a judge prefers: a local language model, asked in both orders.

The judge is shown a prompt with two continuations, and the likelihoods of the answers ` A` and ` B` are compared. A
judge that leans to one of the two places (Wang et al., 2023) adds the same to the log-odds of A in either order, so
that half the difference of the log-odds in the two orders is free of it.

Shape suffixes: C comparisons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import check_limit
from ifguide.corpus.documents import Query
from ifguide.corpus.queries import encode_queries
from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.decoding.generation import numbered
from ifguide.evaluation.likelihood import continuation_likelihoods
from ifguide.models import load_model
from ifguide.opening import check_pretrained, context_length

ANSWERS = (" A", " B")
PLACES = ("{prompt}", "{first}", "{second}")


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Compares generations of two runs, prompt by prompt.

    Args:
        pretrained: Hugging Face folder of the judge, with its tokenizer.
        template: the question, with `{prompt}`, `{first}` (which is A) and `{second}` (B); the answer comes next.
        limit: at most this many of the prompts that both runs continued, drawn at random but always the same.
        samples: the first so many continuations of a prompt are compared, each with that of the same number.
        batch_size: texts at a time.
        trust_remote_code: run model code from the folder; only ever when asked for.

    Raises:
        ValueError: no model folder, a template without one of the three, or a number below 1; when called, no prompt
            that both have, fewer samples than asked for, or a comparison longer than the judge's context.
    """

    NOT_SETTINGS: ClassVar = ("batch_size", "trust_remote_code")

    pretrained: str
    template: str
    limit: int | None = 200
    samples: int = 1
    batch_size: int = 8
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_pretrained(self.pretrained, "pretrained")
        try:
            self.template.format(prompt="1", first="2", second="3")
        except (LookupError, ValueError) as error:
            raise ValueError(f"template: write braces that are no places twice ({error!r})") from None
        if missing := [place for place in PLACES if place not in self.template]:
            raise ValueError(f"template: {', '.join(missing)} must be in it")
        for name in ("limit", "samples", "batch_size"):
            check_limit(getattr(self, name), name)

    def check(self, prompts: Sequence[str], new_tokens: int) -> None:
        """Raise ValueError where a comparison cannot fit into the judge's context.

        Args:
            prompts: that are continued.
            new_tokens: longest continuation, which is taken to have as many tokens for the judge.
        """
        tokenizer = make_tokenizer((), path=self.pretrained)
        config = AutoConfig.from_pretrained(self.pretrained, trust_remote_code=self.trust_remote_code)
        asked = [self.template.format(prompt=prompt, first="", second="") for prompt in prompts]
        encoded = tokenizer.backend_tokenizer.encode_batch(asked, add_special_tokens=False)
        longest = max((len(one.ids) for one in encoded), default=0) + 2 * new_tokens + len(ANSWERS)
        if longest > context_length(config):
            raise ValueError(
                f"pretrained={self.pretrained}: a comparison has about {longest} tokens, the judge's context only "
                f"{context_length(config)}"
            )

    def __call__(
        self, first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], device: torch.device
    ) -> list[dict[str, Any]]:
        """Compare rows of two `generations.arrow`.

        Returns:
            One row a comparison: `record`, `prompt`, the two continuations `first` and `second`, and their `log_odds`:
            log p(A) − log p(B) where the first is A, and where the second is. Equal texts are not asked about: 0 twice.
        """
        ours, others = (
            dict(zip(numbered([row["prompt"] for row in rows]), rows, strict=True)) for rows in (first, second)
        )
        shared = [(row, others[key]["continuations"]) for key, row in ours.items() if key in others]
        if not shared:
            raise ValueError("the two runs continued no prompt that is the same; compare runs of one evaluation")
        drawn = np.sort(np.random.default_rng(0).permutation(len(shared))[: self.limit])
        rows = []
        for row, theirs in (shared[index] for index in drawn):
            if min(len(theirs), len(row["continuations"])) < self.samples:
                raise ValueError(f"samples={self.samples}: a prompt has fewer continuations than that")
            for one, other in zip(row["continuations"][: self.samples], theirs, strict=False):
                rows.append({"record": row["record"], "prompt": row["prompt"], "first": one, "second": other})
        asked = [row for row in rows if row["first"] != row["second"]]
        questions = [
            self.template.format(prompt=row["prompt"], first=row[a], second=row[b])
            for a, b in (("first", "second"), ("second", "first"))
            for row in asked
        ]
        model = load_model(self.pretrained, trust_remote_code=self.trust_remote_code).to(device)  # type: ignore[arg-type]
        tokenizer = make_tokenizer((), path=self.pretrained)
        odds = answer_log_odds(model, tokenizer, questions, batch_size=self.batch_size)
        found = iter(odds.reshape(2, -1).T.tolist())
        return [row | {"log_odds": next(found) if row["first"] != row["second"] else [0.0, 0.0]} for row in rows]


def answer_log_odds(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, questions: Sequence[str], *, batch_size: int
) -> NDArray[np.float64]:
    """log p(` A`) − log p(` B`) after each question.

    Raises:
        ValueError: a question does not fit into the model's context.
    """
    asked = [Query(question, answer, False, "") for answer in ANSWERS for question in questions]
    encoded = encode_queries(asked, tokenizer, config=model.config)
    longest = max((len(query.input_ids) for query in encoded), default=0)
    context = getattr(model.config, "max_position_embeddings", longest)
    if longest > context:
        raise ValueError(f"pretrained: a comparison has {longest} tokens, the judge's context only {context}")
    losses = continuation_likelihoods(model, encoded, batch_size=batch_size, description="Judge").losses
    return losses[len(questions) :] - losses[: len(questions)]


def wins(log_odds_C2: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where the first is preferred, 0 where the second is, ½ where neither: [C] from the log-odds in both orders."""
    return (np.sign(log_odds_C2[:, 0] - log_odds_C2[:, 1]) + 1) / 2


def same_in_both_orders(log_odds_C2: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where the judge prefers the same continuation whatever its place (or the texts are equal), else 0: [C]."""
    same: NDArray[np.float64] = (np.sign(log_odds_C2[:, 0]) == -np.sign(log_odds_C2[:, 1])).astype(np.float64)
    return same
