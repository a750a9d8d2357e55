"""LAMBADA (Paperno et al., 2016): the last word of a passage, which only its whole context gives away."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import check_limit, check_whole_number
from ifguide.corpus.documents import Query
from ifguide.corpus.queries import encode_queries
from ifguide.corpus.records import read_records
from ifguide.corpus.schema import PASSAGE
from ifguide.evaluation.fluency import Metrics
from ifguide.evaluation.likelihood import continuation_likelihoods
from ifguide.opening import context_length
from ifguide.statistics import mean_interval, proportion_interval


@dataclass(frozen=True, kw_only=True)
class Lambada:
    """Accuracy and perplexity on the last words of passages.

    Args:
        files: jsonl or parquet files or globs.
        field: the field of a passage, whose last word is the target.
        limit: at most this many passages.
        batch_size: passages at a time.

    Raises:
        ValueError: no such file, a limit below 1, no passage, or a passage of one word.
    """

    NOT_SETTINGS: ClassVar = ("batch_size",)

    files: str | Sequence[str]
    field: str = "text"
    limit: int | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_whole_number("batch_size", self.batch_size, least=1)
        check_limit(self.limit)
        if not self.passages:
            raise ValueError(f"files={self.files}: there is no passage")

    @cached_property
    def passages(self) -> list[Query]:
        """Each with its last word as the continuation."""
        found = []
        for row in read_records(self.files):
            (text,) = row.read(PASSAGE, text=self.field)
            context, _, word = text.rstrip().rpartition(" ")
            if not context.strip():
                raise row.mistake("a passage of one word has no last word to predict")
            found.append(Query(context, f" {word}", False, row.place))
        return found[: self.limit]

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Metrics:
        """Every metric with its `…_interval` (bootstrap over passages), under the subset `all`.

        Returns:
            `accuracy`: share of passages whose whole last word greedy decoding writes; `last_token_accuracy`: whose
            last token is the most likely one after all before it (what IF-Guide's paper reports); `perplexity`:
            exp(mean −log p(last word)), per word.
        """
        encoded = encode_queries(self.passages, tokenizer, context_length(model.config), model.config)
        found = continuation_likelihoods(model, encoded, batch_size=self.batch_size, description="LAMBADA")
        greedy, last = found.greedy.astype(np.float64), found.last_greedy.astype(np.float64)
        return {
            "all": {
                "passages": len(encoded),
                "accuracy": float(greedy.mean()),
                "accuracy_interval": proportion_interval(greedy[None]),
                "last_token_accuracy": float(last.mean()),
                "last_token_accuracy_interval": proportion_interval(last[None]),
                "perplexity": float(np.exp(found.losses.mean())),
                "perplexity_interval": [float(np.exp(value)) for value in mean_interval(found.losses)],
            }
        }
