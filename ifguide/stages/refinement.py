"""A direction refined by conjugate gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from ifguide.corpus.documents import Query
from ifguide.corpus.queries import encode_queries
from ifguide.cost import CorpusSize, Work, shape_of
from ifguide.cost.influence import refining
from ifguide.influence.chain import InfluenceSettings
from ifguide.influence.conjugate_gradients import ConjugateGradients
from ifguide.influence.curvature import Curvature
from ifguide.influence.direction import load_direction, query_gradient, save_direction
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
        if self.curvature.strategy == "identity" and self.curvature.relative:
            raise ValueError(
                "refine: the identity has no eigenvalues that a damping could be relative to; set "
                "curvature.relative=false, or choose a curvature that is fitted"
            )
        if self.curvature.damping == 0:
            raise ValueError("refine: conjugate gradients need a damping above 0; set curvature.damping")

    def work(self, corpus: CorpusSize) -> Work:
        shape = shape_of(self.loading, corpus.vocabulary)
        return refining(shape, self.refine, self.influence, length=corpus.block_length)

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
        corpus, settings = inputs.corpus(), self.influence
        split = corpus.split("train")

        def start(processes: Processes) -> tuple[PreTrainedModel, dict[str, Tensor]]:
            model = self.loading.load(inputs["proxy"], processes.device)
            encoded = encode_queries(self.queries, corpus.tokenizer, split.block_length, model.config)
            return model, query_gradient(
                model, encoded, batch_size=settings.batch_size, layers=settings.layer_names(model), processes=processes
            )

        model, gradient = self.trainer.on_all_devices(start)
        rows = sample_rows(len(split), self.refine.blocks, self.refine.seed)
        module = RefiningModule(
            model,
            self.refine,
            self.curvature,
            load_factors(inputs["factors"]),
            gradient=gradient,
            start=load_direction(inputs["direction"], model),
            blocks=split.tokens(rows),
            batch_size=settings.batch_size,
            folder=folder,
        )
        facts = refine(self.trainer.inference_trainer(), module)
        direction = module.direction()
        if module.trainer.is_global_zero:
            save_direction(direction, folder)
            (folder / STATE_FILE).unlink()
        found = findings.of_refinement(facts["steps"], facts["residuals"], facts.get("curvature_ratio"))
        return {"blocks": len(rows), **facts, "direction_norm": norm(direction), **found}
