"""Makes each stage of a configuration when it is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ifguide.checks import argument
from ifguide.corpus.documents import Query
from ifguide.corpus.queries import first_half, halves
from ifguide.objectives import LanguageModeling
from ifguide.stages.auxiliary import AuxiliaryModel
from ifguide.stages.classifiers import FittedClassifier
from ifguide.stages.configuration import choices, make, make_logger, with_first_halves
from ifguide.stages.data import Data
from ifguide.stages.evaluation import Toxicity
from ifguide.stages.export import Export
from ifguide.stages.filtering import DocumentInfluence, Filtered, FilteredMask, JudgedDocuments
from ifguide.stages.influence import Direction, Factors, Mask, PooledScores
from ifguide.stages.measuring import STARTS, measured
from ifguide.stages.post_training import STAGES_OF, guided
from ifguide.stages.refinement import RefinedDirection
from ifguide.stages.sampling import Samples
from ifguide.stages.scoring import plan_scores, refuse
from ifguide.stages.stage import Existing, Kind, Stage
from ifguide.stages.tagging import JudgedSegments, Tagged, TaggedMask
from ifguide.stages.training import Proxy, TrainedModel
from ifguide.training.auxiliary import LabelledAuxiliary
from ifguide.training.context import TrainingSetup
from ifguide.workspace import read_manifest

LEARNING = ("pairs", "labelled", "callbacks")  # groups that may read the behaviours


class Planner:
    """Makes each stage of a configuration when it is asked for, and keeps it under its role."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.roles: dict[str, Stage] = {}
        self.typed: dict[str, dict[str, str]] = {}
        self._parts: dict[str, Any] = {}

    def part(self, key: str) -> Any:
        """What the configuration has under a key, instantiated once; None where a group's option is empty."""
        if key not in self._parts:
            self._parts[key] = make(self.learned if key in LEARNING else self.cfg, key) or None
        return self._parts[key]

    @cached_property
    def learned(self) -> DictConfig:
        """The configuration of what rows learn from: its behaviours lack the queries that a classifier learns from."""
        return with_first_halves(self.cfg, self.judging.values()) if self.judging else self.cfg

    def add(self, role: str, kind: type[Kind], typed: Mapping[str, str] | None = None, **fields: Any) -> Kind:
        """Make a stage and keep it.

        Args:
            role: what it is here.
            kind: its class.
            typed: field → the setting as a user types it, where it has another name than the field.
            fields: of the class; `loading` and `trainer` are the same for all.
        """
        stage = kind(**fields)
        self.roles[role], self.typed[role] = stage, {name: name for name in fields} | dict(typed or {})
        return stage

    def targets(self, wanted: str) -> list[Stage]:
        """The stages that a name asks for."""
        if wanted == "direction":
            return list(self.directions().values())
        role = "evaluation" if wanted == "evaluate" else wanted
        return [self.scores() if role == "scores" else getattr(self, role)]

    @property
    def name(self) -> str:
        return choices().get("method", "run") if HydraConfig.initialized() else "run"

    @cached_property
    def placed(self) -> dict[str, Any]:
        """Where everything is computed."""
        return {"trainer": self.part("trainer")}

    @cached_property
    def callbacks(self) -> Mapping[str, Any]:
        """Name → who watches trainings."""
        found: Mapping[str, Any] = self.part("callbacks") or {}
        if any(hasattr(one, "hand_over") for one in found.values()):
            refuse(self, "callbacks=influence", "refine", "student")
        return found

    def training(self, role: str) -> dict[str, Any]:
        """What all trainings share: precision, and a setup whose log stands under the role's name."""
        watching = [one for one in self.callbacks.values() if not hasattr(one, "adds_files")]
        trainer = self.part("trainer")
        setup = TrainingSetup(trainer, lambda: make_logger(self.cfg, role), tuple(watching))
        return {"precision": trainer.precision, "setup": setup}

    @cached_property
    def data(self) -> Stage:
        return self.add("data", Data, {"corpus": "data"}, corpus=self.part("data"))

    @cached_property
    def proxy(self) -> Stage:
        return self.add(
            "proxy", Proxy, {"model": "proxy", "optim": "proxy_optim"}, data=self.data, model=self.part("proxy"),
            optim=self.part("proxy_optim"), objective=LanguageModeling(), influence=self.part("influence"),
            **self.training("proxy"),
        )  # fmt: skip

    @cached_property
    def chain(self) -> dict[str, Any]:
        """What the stages of influence share."""
        shared = {"influence": self.part("influence"), "loading": self.part("proxy")}
        return {"proxy": self.proxy, "data": self.data, **shared, **self.placed}

    @cached_property
    def judging(self) -> dict[str, str]:
        """Classifier → the behaviour whose queries train it."""
        settings = (self.part("classifiers") or {}).items()
        trained = {name: one.behaviour or name for name, one in settings if hasattr(one, "behaviour")}
        for name, behaviour in trained.items():
            if behaviour not in self.part("behaviours"):
                raise ValueError(
                    f"classifiers.{name}.behaviour={behaviour}: no queries are called so; behaviours: "
                    f"{', '.join(self.part('behaviours')) or 'none'}"
                )
        return trained

    @cached_property
    def behaviours(self) -> dict[str, Sequence[Query]]:
        """Behaviour → its queries; half of them where a classifier is trained on the others."""
        judged = self.judging.values()
        return {name: first_half(all_) if name in judged else all_ for name, all_ in self.part("behaviours").items()}

    @cached_property
    def factors(self) -> Stage:
        return self.add("factors", Factors, curvature=self.part("curvature"), **self.chain)

    def directions(self, contrast: bool = True) -> dict[str, Stage]:
        """Behaviour → its direction; without contrast, that of its toxic queries alone."""
        return {name: self.direction(name, contrast) for name in self.behaviours}

    def direction(self, behaviour: str, contrast: bool) -> Stage:
        """The direction of a behaviour, refined where that is asked for."""
        queries = [query for query in self.behaviours[behaviour] if contrast or query.toxic]
        role, refine = f"direction.{behaviour}" if contrast else f"direction.{behaviour}.toxic", self.part("refine")
        shared = {"factors": self.factors, "queries": queries, "curvature": self.part("curvature"), **self.chain}
        typed = {"queries": f"behaviours.{behaviour}"}
        found = self.add(role, Direction, typed, contrast=contrast, **shared)
        if refine is None:
            return found
        return self.add(f"refined_{role}", RefinedDirection, typed, direction=found, refine=refine, **shared)

    def scores(self, contrast: bool = True) -> Stage:
        """Scores of all training tokens."""
        return plan_scores(self, contrast)

    @cached_property
    def pooled(self) -> Stage:
        scores, pooling = self.scores(), self.part("pooling")
        if pooling is None:
            return scores
        return self.add("pooled", PooledScores, scores=scores, data=self.data, pooling=pooling)

    @cached_property
    def mask(self) -> Stage:
        folder = self.cfg.paths.mask
        if folder is not None:
            return self.add("mask", Existing, {"folder": "paths.mask"}, folder=Path(folder), stage="mask")
        return self.add(
            "mask", Mask, scores=self.pooled, data=self.data, behaviours=list(self.behaviours),
            selection=self.part("selection"),
        )  # fmt: skip

    @cached_property
    def export(self) -> Stage:
        """The mask with its scores; those of a mask that another run made are the ones that it was made from."""
        mask = self.mask
        if isinstance(mask, Existing):
            found = mask.input("scores")
            scores: Stage = self.add("scores", Existing, folder=found.folder, stage=found.stage)
            behaviours = list(read_manifest(mask.folder)["facts"]["behaviours"])
        else:
            scores, behaviours = self.pooled, list(self.behaviours)
        return self.add(
            "export", Export, {"unit": "export.unit"}, data=self.data, mask=mask, scores=scores, behaviours=behaviours,
            unit=self.cfg.export.unit,
        )  # fmt: skip

    def classifier(self, key: str, role: str) -> dict[str, Any]:
        """A classifier's stage, and what loads it."""
        settings = self.part(key)
        if hasattr(settings, "behaviour"):
            behaviour = self.judging.get(key.removeprefix("classifiers."))
            if behaviour is None:
                raise ValueError(f"{key}: a classifier that is trained on queries judges; choose another one here")
            with argument(key):
                queries = halves(self.part("behaviours")[behaviour])[1]
                settings = replace(settings, behaviour=behaviour, queries=queries)
        fitted = self.add(role, FittedClassifier, {"classifier": key}, classifier=settings)
        return {"classifier": fitted, "judge": settings, **self.placed}

    @cached_property
    def filtered(self) -> Stage:
        """What a filter makes of the corpus; the corpus itself where there is none."""
        chosen = self.part("filter")
        if chosen is None:
            return self.data
        if chosen.reads == "segments":
            judging = self.classifier("filter.classifier", "classifier.filter")
            scored = self.add("segment_scores", JudgedSegments, data=self.data, filter=chosen, **judging)
            return self.add("filtered", Tagged, data=self.data, judged=scored, filter=chosen)
        if chosen.reads == "scores":
            scores = self.scores(chosen.contrast)
            judged: Stage = self.add("document_scores", DocumentInfluence, data=self.data, scores=scores)
        else:
            judging = self.placed
            if "classifier" in self.cfg.filter:
                judging = self.classifier("filter.classifier", "classifier.filter")
            behaviours = self.behaviours if chosen.uses_queries else {}
            judged = self.add(
                "document_scores", JudgedDocuments, data=self.data, filter=chosen, behaviours=behaviours, **judging
            )
        return self.add("filtered", Filtered, data=self.data, judged=judged, filter=chosen)

    @cached_property
    def text(self) -> Stage:
        """The corpus as the trained model reads it: with control tokens, where a filter puts them there."""
        return self.filtered if isinstance(self.filtered, Tagged) else self.data

    @cached_property
    def uncensored(self) -> Stage:
        """The model of this seed without any method."""
        return self.add(
            "uncensored", TrainedModel, data=self.data, model=self.part("model"), optim=self.part("optim"),
            objective=LanguageModeling(), **self.training("uncensored"),
        )  # fmt: skip

    @cached_property
    def model(self) -> Stage:
        post_training = self.part("post_training")
        role = "model" if post_training is None else "trained"
        is_tagged = self.text is not self.data
        filtered = None if is_tagged or self.filtered is self.data else self.filtered
        mask = self.mask if self.part("objective").uses_mask else None
        if mask is not None and is_tagged:
            mask = self.add("filtered_mask", TaggedMask, data=self.data, mask=mask, tagged=self.text)
        if mask is not None and filtered is not None:
            mask = self.add("filtered_mask", FilteredMask, data=self.data, mask=mask, filtered=filtered)
        recorders = {k: one for k, one in self.callbacks.items() if hasattr(one, "adds_files")}
        trained = self.add(
            role, TrainedModel, data=self.text, filtered=filtered, mask=mask, model=self.part("model"),
            optim=self.part("optim"), objective=self.part("objective"), recorders=recorders, **self.training(role),
        )  # fmt: skip
        return trained if post_training is None else STAGES_OF[type(post_training)](self, post_training, trained)

    def samples(self, role: str, model: Stage, key: str) -> dict[str, Any]:
        """What a model writes after the queries' prompts, and what a classifier makes of it.

        Args:
            role: of both, before `samples` and `judged_samples`.
            model: who writes.
            key: of the settings that have a `sampling` and a `classifier`.
        """
        sampling = self.part(f"{key}.sampling")
        prompts = sampling.prompts([query for queries in self.behaviours.values() for query in queries])
        written = self.add(
            f"{role}samples", Samples, {"sampling": f"{key}.sampling"}, data=self.data, model=model, sampling=sampling,
            prompts=prompts, loading=self.part("model"), **self.placed,
        )  # fmt: skip
        judge = self.classifier(f"{key}.classifier", f"classifier.{key.split('.')[0]}")
        return {"samples": written, "judged": self.add(f"{role}judged_samples", Toxicity, generations=written, **judge)}

    def auxiliaries(self) -> dict[str, Stage]:
        """Role → model that the decoder reads."""
        chosen = self.part("decoding").auxiliaries
        from_texts = {role: one for role, one in chosen.items() if isinstance(one, LabelledAuxiliary)}
        with argument("labelled"):
            labelled = list(self.part("labelled")) if from_texts else []
        found: dict[str, Stage] = {
            role: self.add(
                f"auxiliary.{role}", AuxiliaryModel, {"training": f"decoding.{one.setting}"}, data=self.data,
                start=None if one.pretrained is not None else getattr(self, one.continues), training=one,
                labelled=labelled, loading=self.part(STARTS[one.continues]), **self.training(role),
            )
            for role, one in from_texts.items()
        }  # fmt: skip
        for role, one in chosen.items():
            if role not in from_texts:
                found |= {"base": self.model, role: guided(self, "auxiliary.", f"decoding.{one.setting}", self.model)}
        return found

    @cached_property
    def evaluation(self) -> Stage:
        return measured(self)
