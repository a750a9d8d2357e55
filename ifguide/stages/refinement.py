"""A direction refined by conjugate gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.corpus.documents import Query
from ifguide.cost import CorpusSize, Work, shape_of
from ifguide.cost.influence import refining
from ifguide.influence.chain import InfluenceSettings, find_gradient
from ifguide.influence.conjugate_gradients import ConjugateGradients
from ifguide.influence.curvature import Curvature
from ifguide.influence.damped_system import DampedSystem, check_refinable
from ifguide.influence.direction import load_direction, save_direction
from ifguide.influence.factors import load_factors
from ifguide.influence.refinement import STATE_FILE, RefiningModule, refine
from ifguide.influence.scorers.base import norm
from ifguide.influence.scoring import sample_rows
from ifguide.models import ModelSettings
from ifguide.processes import Processes
from ifguide.stages import findings
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.trainer import TrainerSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinedDirection(Stage):
    """The direction of a behaviour after conjugate gradients (`ifguide.influence.conjugate_gradients`).

    Attributes:
        direction: what the factors alone give.
        proxy, data, factors: as of that direction.
        refine: how.
        queries, curvature, influence: of that direction, which decides them.
        loading, trainer: how the proxy is loaded, and where.
    """

    name: ClassVar[str] = "refined_direction"
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = True
    collective: ClassVar[bool] = True

    direction: Stage = made_from()
    proxy: Stage = made_from()
    data: Stage = made_from()
    factors: Stage = made_from()
    refine: ConjugateGradients = setting()
    queries: Sequence[Query] = speed()
    curvature: Curvature = speed()
    influence: InfluenceSettings = speed()
    loading: ModelSettings = speed()
    trainer: TrainerSettings = speed()

    def check(self) -> None:
        check_refinable(self.curvature)

    def work(self, corpus: CorpusSize) -> Work:
        shape = shape_of(self.loading, corpus.vocabulary)
        return refining(shape, self.refine, self.influence, length=corpus.block_length)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus, settings = inputs.corpus(), self.influence
        split = corpus.split("train")

        def start(processes: Processes) -> tuple[PreTrainedModel, dict[str, Tensor]]:
            model = self.loading.load(inputs["proxy"], processes.device)
            gradient, _ = find_gradient(
                model, settings, self.queries, corpus.tokenizer, block_length=split.block_length, processes=processes
            )
            return model, gradient

        model, gradient = self.trainer.on_all_devices(start)
        rows = sample_rows(len(split), self.refine.blocks, self.refine.seed)
        system = partial(
            DampedSystem, model, self.refine, self.curvature, load_factors(inputs["factors"]), gradient=gradient,
            blocks_BT=torch.from_numpy(split.tokens(rows)), batch_size=settings.batch_size,
        )  # fmt: skip
        module = RefiningModule(
            model, system, start=load_direction(inputs["direction"], model), steps=self.refine.steps, folder=folder
        )
        facts = refine(self.trainer.inference_trainer(), module)
        direction = module.direction()
        if module.trainer.is_global_zero:
            save_direction(direction, folder)
            (folder / STATE_FILE).unlink()
        found = findings.of_refinement(facts["steps"], facts["residuals"], facts.get("curvature_ratio"))
        return {"blocks": len(rows), **facts, "direction_norm": norm(direction), **found}
