"""Perplexity of a model: a measurement, as those of `ifguide.stages.evaluation`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ifguide.checks import check_whole_number
from ifguide.corpus.blocks import Split
from ifguide.cost import CorpusSize, Work, reading, shape_of
from ifguide.decoding import ModelDecoding, Nucleus
from ifguide.decoding.base import attached
from ifguide.decoding.loading import load_with_decoder
from ifguide.evaluation.fluency import block_losses, document_losses, perplexity_metrics
from ifguide.evaluation.task import METRICS_FILE
from ifguide.hardware import AUTO
from ifguide.inference import check_dtype
from ifguide.models import ModelSettings
from ifguide.processes import Processes
from ifguide.stages.stage import Inputs, Stage, late_setting, made_from, speed
from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import global_rank, write_json


@dataclass(frozen=True, kw_only=True, eq=False)
class Perplexity(Stage):
    """Perplexity of a model on a held-out split of its corpus, of whose control tokens it writes none.

    Attributes:
        data, model: the corpus and the model.
        decoding: what makes another model of it, if anything does.
        auxiliaries: role → what that reads.
        split: `validation` or `test`.
        dtype: of the models, as in `ifguide.inference.load_for_inference`; auxiliary ones follow the model.
        loading, trainer, batch_size: how and where it is computed.
    """

    name: ClassVar[str] = "perplexity"
    version: ClassVar[int] = 2
    collective: ClassVar[bool] = True

    data: Stage = made_from()
    model: Stage = made_from()
    auxiliaries: Mapping[str, Stage] = made_from({})
    decoding: ModelDecoding | None = late_setting(None)
    split: str = late_setting("test")
    dtype: str = late_setting(AUTO)
    loading: ModelSettings = speed()
    trainer: TrainerSettings = speed()
    batch_size: int = speed()

    def check(self) -> None:
        check_whole_number("batch_size", self.batch_size, least=1)
        check_dtype(self.dtype)
        if self.split not in ("validation", "test"):
            raise ValueError(f"split={self.split}: known: validation, test")

    def work(self, corpus: CorpusSize) -> Work:
        blocks = corpus.blocks[self.split]
        found = reading(
            shape_of(self.loading, corpus.vocabulary), batch_size=self.batch_size, count=blocks,
            length=corpus.block_length, setting="batch_size", dtype=self.dtype,
        )  # fmt: skip
        return replace(found, disk=41.0 * corpus.documents * blocks / max(1, sum(corpus.blocks.values())))

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus = inputs.corpus()
        split, never = corpus.split(self.split), corpus.control_tokens
        losses, facts = self.trainer.on_all_devices(lambda processes: self.losses(inputs, split, never, processes))
        if global_rank() == 0:
            (found := document_losses(losses, split, never=never)).save(folder)
            write_json(folder / METRICS_FILE, perplexity_metrics(found))
        return facts

    def losses(
        self, inputs: Inputs, split: Split, never: Sequence[int], processes: Processes
    ) -> tuple[NDArray[np.float32], Mapping[str, Any]]:
        model, decoder, facts = load_with_decoder(
            self.loading, inputs["model"], self.decoding or Nucleus(), inputs.each("auxiliaries"), self.loading,
            corpus=inputs.corpus(), dtype=self.dtype, device=processes.device,
        )  # fmt: skip
        with attached(decoder, model):
            return block_losses(model, split, batch_size=self.batch_size, never=never, processes=processes), facts
