"""Models that a decoder reads beside the one that generates: how they are trained."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerFast

from ifguide.checks import check_seed
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.tokenizers import open_tokenizer
from ifguide.models import LoadOptions
from ifguide.opening import loading
from ifguide.training.context import TrainingContext
from ifguide.training.optimization import Optimization


class Auxiliary:
    """What a decoder reads beside the model that generates; its settings decide that artifact."""

    setting: ClassVar[str]  # of the decoder, that it is an argument of
    continues: ClassVar[str]  # the stage of the model that it starts from

    @property
    def batch_size(self) -> int | None:
        """Of its optimisation; None: nothing is optimised."""
        return None

    @property
    def pretrained(self) -> str | None:
        """Another model that it starts from: a folder or hub name."""
        return None


class LabelledAuxiliary(Auxiliary, ABC):
    """An auxiliary that is made with the texts of the group `labelled`."""

    @abstractmethod
    def check(self, texts: Sequence[LabelledText]) -> None:
        """Raise ValueError where it cannot learn from these texts."""

    @abstractmethod
    def check_corpus(
        self, texts: Sequence[LabelledText], tokenizer: PreTrainedTokenizerFast, block_length: int
    ) -> None:
        """Raise ValueError where it cannot learn beside this corpus, before anything is trained.

        Args:
            texts: what it learns from.
            tokenizer: of the corpus.
            block_length: tokens per block of the corpus.
        """

    @abstractmethod
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
        """Train it and write its folder, continuing an interrupted run exactly; called in every process.

        Args:
            start: folder or hub name of the model to continue.
            texts: what it learns from.
            tokenizer: of the corpus.
            block_length: tokens per block of the corpus.
            context: where it is computed and written.
            options: how the model to continue is loaded.

        Returns:
            Facts for the manifest.
        """


@dataclass(frozen=True)
class TrainedAuxiliary(Auxiliary):
    """The settings of one auxiliary model that is trained.

    Args:
        optim: how it is optimised.
        validation: share of the texts held out.
        seed: of the data order and of what is held out.
    """

    optim: Optimization
    validation: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_validation(self.validation)
        check_seed(self.seed)

    @property
    def batch_size(self) -> int | None:
        return self.optim.batch_size


@dataclass(frozen=True)
class ContinuedModel(TrainedAuxiliary, LabelledAuxiliary):
    """A model that is trained further, on labelled texts.

    Args:
        optim: how it is optimised; 0 epochs keep a pretrained model as it is.
        validation, seed: as in `TrainedAuxiliary`.
        pretrained: a model folder or hub name to continue; None: the model of the stage `continues`.
    """

    pretrained: str | None = None


def tokenizer_of(start: str | Path, fallback: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder or hub name; the fallback where a folder has none."""
    if Path(start).is_dir() and not (Path(start) / "tokenizer.json").is_file():
        return fallback
    with loading(f"{start}: its tokenizer"):
        tokenizer = open_tokenizer(start)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{start}: its tokenizer has no end-of-text token, which texts are put between")
    return tokenizer


def check_validation(validation: float) -> None:
    if not 0 <= validation < 1:
        raise ValueError(f"validation={validation}: a share in [0, 1)")
