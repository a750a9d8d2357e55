"""Training of DExperts: language models fine-tuned on the toxic, or on the other, labelled texts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerFast

from ifguide.checks import argument
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import pack_texts
from ifguide.corpus.tokenizers import check_same_tokenizer, vocabulary_size
from ifguide.models import LoadOptions, check_vocabulary, load_model
from ifguide.objectives import LanguageModeling
from ifguide.training.auxiliary import ContinuedModel
from ifguide.training.context import TrainingContext, save_trained
from ifguide.training.data import hold_out
from ifguide.training.fit import train


@dataclass(frozen=True)
class ExpertTraining(ContinuedModel):
    """Fine-tuning on the labelled texts of one kind, packed into blocks of the corpus's length.

    Args:
        optim, pretrained, validation, seed: as in `ContinuedModel`; a pretrained model has the corpus's tokenizer.
        toxic: on the texts of toxicity `toxic_at_least` and above; otherwise of `nontoxic_at_most` and below.
        toxic_at_least, nontoxic_at_most: thresholds.
    """

    setting: ClassVar[str] = "experts"
    continues: ClassVar[str] = "uncensored"

    toxic: bool = False
    toxic_at_least: float = 0.5
    nontoxic_at_most: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.nontoxic_at_most < self.toxic_at_least <= 1:
            raise ValueError(
                f"toxic_at_least={self.toxic_at_least}, nontoxic_at_most={self.nontoxic_at_most}: "
                "thresholds lie in [0, 1], the first above the second"
            )

    def check(self, texts: Sequence[LabelledText]) -> None:
        """See `LabelledAuxiliary`."""
        self.chosen(texts)

    def chosen(self, texts: Sequence[LabelledText]) -> list[str]:
        """The texts that it learns from.

        Raises:
            ValueError: there are none.
        """
        kept = [
            text.text
            for text in texts
            if (text.toxicity >= self.toxic_at_least if self.toxic else text.toxicity <= self.nontoxic_at_most)
        ]
        if not kept:
            kind = "toxic_at_least" if self.toxic else "nontoxic_at_most"
            raise ValueError(f"{kind}={getattr(self, kind)}: no labelled text is left for an expert")
        return kept

    def check_corpus(
        self, texts: Sequence[LabelledText], tokenizer: PreTrainedTokenizerFast, block_length: int
    ) -> None:
        """See `LabelledAuxiliary`."""
        check_same_tokenizer(self.pretrained, tokenizer)
        learned, _ = self._split(texts)
        blocks = pack_texts(learned, tokenizer, block_length)
        with argument("optim"):
            self.optim.steps(len(blocks), "blocks of labelled texts")

    def _split(self, texts: Sequence[LabelledText]) -> tuple[list[str], list[str]]:
        """Texts to train on, and to validate on where they fill a block."""
        kept = self.chosen(texts)
        learned, held = ([kept[row] for row in rows] for rows in hold_out(len(kept), self.validation, self.seed))
        return learned, held

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
        """See `LabelledAuxiliary`; leaves a causal language model's folder."""
        check_same_tokenizer(str(start), tokenizer)
        model = load_model(start, **asdict(options))
        check_vocabulary(model, vocabulary_size(tokenizer))
        learned, held = self._split(texts)
        facts = train(
            model,
            LanguageModeling(),
            self.optim,
            context,
            blocks=pack_texts(learned, tokenizer, block_length),
            mask=None,
            validation=pack_texts(held, tokenizer, block_length),
            seed=self.seed,
        )
        save_trained(model, tokenizer, context.directory)
        return {"texts": len(learned), **facts}
