"""Whether a model says in words what is toxic: which of two answers it finds more likely."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import check_whole_number
from ifguide.corpus.answered import AnsweredSource
from ifguide.corpus.documents import Query
from ifguide.corpus.queries import encode_queries
from ifguide.evaluation.fluency import Metrics
from ifguide.evaluation.likelihood import continuation_likelihoods
from ifguide.opening import context_length
from ifguide.statistics import roc_auc, roc_auc_interval

RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Answers:
    """ROC AUC of log p(positive answer) − log p(negative answer) on the texts that a source holds out.

    Args:
        source: what the model may have learned from; of its held-out texts the model is asked.
        max_length: tokens of text, question and answer that are read, the last ones.
        batch_size: texts at a time.

    Raises:
        ValueError: a setting out of range.
    """

    NOT_SETTINGS: ClassVar = ("batch_size",)

    source: AnsweredSource
    max_length: int = 128
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_whole_number("max_length", self.max_length, least=2)
        check_whole_number("batch_size", self.batch_size, least=1)

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Metrics:
        """`roc_auc` with its interval (bootstrap over texts) and the number of texts `judged`, of `all`."""
        source, (_, rows) = self.source, self.source.parts
        length = min(self.max_length, context_length(model.config))

        def losses(answer: str) -> NDArray[np.float64]:
            asked = [Query(row.text + source.question, answer, row.toxic, "") for row in rows]
            encoded = encode_queries(asked, tokenizer, length, model.config)
            found = continuation_likelihoods(model, encoded, batch_size=self.batch_size, description="Answers")
            return found.losses

        scores, toxic = losses(source.negative) - losses(source.positive), np.array([row.toxic for row in rows])
        return {
            "all": {
                "roc_auc": roc_auc(scores, toxic),
                "roc_auc_interval": roc_auc_interval(scores, toxic, resamples=RESAMPLES),
                "judged": len(rows),
            }
        }
