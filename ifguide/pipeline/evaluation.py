"""The stages of evaluation: every measurement is an artifact of its own, and `evaluation` merge_metricss them.

A further task, classifier or utility adds its measurement and leaves the others as they are.
"""

import json
import shutil
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ifguide.classifiers import Classifier
from ifguide.corpus.blocks import SPLITS
from ifguide.corpus.queries import check_disjoint
from ifguide.corpus.sources import by_content, files_in
from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.corpus.words import word_log_odds
from ifguide.evaluation.attribution import attribution_metrics, known_tokens, word_list_scores
from ifguide.evaluation.fluency import block_losses, distinct_metrics, generation_perplexity, perplexity_metrics
from ifguide.evaluation.generation import GENERATIONS_FILE, load_generations
from ifguide.evaluation.task import check_names, measurement_names, merge_metrics
from ifguide.evaluation.toxicity import classify_continuations, toxicity_metrics
from ifguide.influence.store import open_scores
from ifguide.models import check_pretrained, load_model, loading
from ifguide.pipeline.target import TargetStages
from ifguide.workspace import Artifact, write_json

METRICS_FILE = "metrics.json"
PROBABILITIES_FILE = "probabilities.npz"
HELD_OUT = SPLITS[1:]


def check_reference(name: str) -> None:
    """Raise ValueError where a reference model, or its tokenizer, is not there."""
    check_pretrained(name, "reference_model")
    with loading(f"reference_model={name}: its tokenizer"):
        make_tokenizer((), path=name)


class Pipeline(TargetStages):
    """All stages of one configuration; `stage(name)` is the artifact of the last one wanted."""

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        if cfg.stage == "evaluate":
            check_names(list(cfg.tasks), list(cfg.classifiers), list(cfg.utilities))
            if cfg.reference_model is not None:
                check_reference(cfg.reference_model)
            if cfg.perplexity_split not in HELD_OUT:
                raise ValueError(f"perplexity_split={cfg.perplexity_split}: known: {', '.join(HELD_OUT)}")
            instantiate(cfg.judge, _convert_="all")  # asked at the end of a sweep: its mistakes are named now
            for judge in cfg.classifiers.values():
                instantiate(judge, _convert_="all")
            assert self.utilities is not None  # built now, so that its mistakes are named now
            for task in self.tasks.values():
                for queries in self.queries.values() if self.taught else ():
                    check_disjoint(queries, task.prompts)

    def stage(self, name: str) -> Artifact:
        return self.evaluation() if name == "evaluate" else getattr(self, name)()

    @cached_property
    def classifiers(self) -> dict[str, Classifier]:
        """Name → judge; the first one's judgement is the headline."""
        return {
            name: self.make_classifier(settings, role="classifier" if index == 0 else f"classifier {name}")
            for index, (name, settings) in enumerate(self.cfg.classifiers.items())
        }

    @cached_property
    def utilities(self) -> dict[str, Any]:
        return {name: instantiate(utility, _convert_="all") for name, utility in self.cfg.utilities.items()}

    @cache  # noqa: B019
    def evaluation(self) -> Artifact:
        assert self.classifiers  # those trained here are trained now, so that their mistakes are named now
        toxicity = {
            name: self._toxicity(name, task, judge)
            for name, (task, judge) in measurement_names(self.cfg.tasks, self.cfg.classifiers).items()
        }
        parts = [*toxicity.items(), *((task, self._fluency(task)) for task in self.tasks)]
        if not self.decoding.auxiliaries:  # the model's own perplexity says nothing about a decoder that steers it
            parts += [("perplexity", self._perplexity())]
        parts += [(name, self._utility(name)) for name in self.utilities]
        if attribution := self._attribution():
            parts += [("attribution", attribution)]

        filtered = None if self.filter is None else self.filtered()

        def build(directory: Path) -> None:
            metrics = merge_metrics([(name, _read(part)) for name, part in parts])
            if filtered is not None:
                metrics["filter"] = filtered.manifest["facts"]["filter"]
            write_json(directory / METRICS_FILE, metrics)
            for name, part in toxicity.items():
                shutil.copyfile(part.path / PROBABILITIES_FILE, directory / f"probabilities-{name}.npz")

        return self._build(
            "evaluation",
            2,
            settings={"classifier": next(iter(self.classifiers.values())).name},
            inputs={f"{part.stage} of {name}": part for name, part in parts}
            | ({} if filtered is None else {"filtered": filtered}),
            builder=build,
        )

    def metrics(self) -> dict[str, Any]:
        """The metrics of the evaluation, and the cost: seconds of all that the generations were made from and with."""
        seconds = self.workspace.seconds(*(self.generations(task) for task in self.tasks))
        return _read(self.evaluation()) | ({} if seconds is None else {"cost": {"all": {"seconds": seconds}}})

    @property
    def notes(self) -> list[str]:
        """What a reader of this row has to know."""
        same = [judge.name for judge in self.classifiers.values() if judge.name in self.judges]
        notes = [f"Made with a classifier that evaluates it ({name})." for name in same]
        shared = self._shared_texts(without=same)
        if shared:
            notes.append(f"Made with texts that a classifier which evaluates it knows ({', '.join(shared)}).")
        if self.utilities and self.decoding.auxiliaries:
            notes.append("Utilities are those of the model without its decoder.")
        return notes

    def _shared_texts(self, without: list[str]) -> list[str]:
        """Files that both the row and a classifier that evaluates it are made with."""
        used = {
            "labelled": bool(self.decoding.auxiliaries),
            "pairs": self.post_training is not None,
            "behaviours": self.taught,
            "filter": self.filter is not None,
        }
        cfg: Any = OmegaConf.to_container(self.cfg, resolve=True)
        learned = files_in({name: cfg[name] for name, is_used in used.items() if is_used})
        known = files_in(
            {name: cfg["classifiers"][name] for name, judge in self.classifiers.items() if judge.name not in without}
        )
        return sorted(learned[signature] for signature in learned.keys() & known.keys())

    def _toxicity(self, name: str, task: str, judge: str) -> Artifact:
        """What a classifier makes of the generations of a task."""
        generations, classifier = self.generations(task), self.classifiers[judge]

        def build(directory: Path) -> None:
            rows = load_generations(generations.path / GENERATIONS_FILE)
            scores = classify_continuations(rows["continuations"], classifier)
            np.savez(directory / PROBABILITIES_FILE, **scores)  # type: ignore[arg-type]
            write_json(directory / METRICS_FILE, toxicity_metrics(scores, rows["subset"]))

        values = self._settings("classifiers")[judge]
        settings = {key: value for key, value in values.items() if key not in ("device", "batch_size")}
        return self._build(
            "toxicity",
            1,
            role=f"toxicity of {name}",
            settings={"classifier": classifier.name, "settings": settings},
            inputs={"generations": generations, **self._classifier_inputs(classifier)},
            builder=build,
        )

    def _fluency(self, task: str) -> Artifact:
        """How varied, and how likely under a reference model, the generations of a task are."""
        generations, reference = self.generations(task), self.cfg.reference_model

        def build(directory: Path) -> None:
            rows = load_generations(generations.path / GENERATIONS_FILE)
            parts = [distinct_metrics(rows["continuations"], rows["subset"])]
            if reference is not None:
                model = load_model(reference).to(self.hardware.device)
                parts.append(
                    generation_perplexity(
                        model,
                        make_tokenizer((), path=reference),
                        rows["prompt"],
                        rows["continuations"],
                        rows["subset"],
                        batch_size=self.cfg.influence.batch_size,
                    )
                )
            write_json(directory / METRICS_FILE, merge_metrics([(task, part) for part in parts])[task])

        settings = {} if reference is None else by_content({"pretrained": reference})
        return self._build(
            "fluency",
            1,
            role=f"fluency of {task}",
            settings=settings,
            inputs={"generations": generations},
            builder=build,
        )

    def _perplexity(self) -> Artifact:
        inputs, name = {"data": self.data(), "model": self.model()}, self.cfg.perplexity_split

        def build(directory: Path) -> None:
            split = self.corpus.split(name)
            losses = block_losses(self._load(inputs["model"]), split, batch_size=self.cfg.influence.batch_size)
            write_json(directory / METRICS_FILE, perplexity_metrics(losses, split))

        settings = {} if name == "test" else {"split": name}
        return self._build("perplexity", 1, settings=settings, inputs=inputs, builder=build)

    def _utility(self, name: str) -> Artifact:
        model, utility = self.model(), self.utilities[name]

        def build(directory: Path) -> None:
            write_json(directory / METRICS_FILE, utility(self._load(model), self.corpus.tokenizer))

        values = self._settings("utilities")[name]
        settings = {key: value for key, value in values.items() if key != "batch_size"}
        return self._build(
            "utility", 1, role=f"utility {name}", settings=settings, inputs={"model": model}, builder=build
        )

    def _attribution(self) -> Artifact | None:
        """Scores and mask against annotated tokens, where this run made scores and the corpus has annotations."""
        if not self.objective.uses_mask or self.cfg.paths.mask is not None:
            return None
        annotation = self.corpus.split("train").annotation
        if annotation is None or not annotation.count():
            return None
        inputs = {"data": self.data(), "scores": self.pooled(), "mask": self.mask()}
        queries = next(iter(self.queries))

        def build(directory: Path) -> None:
            split = self.corpus.split("train")
            words = word_list_scores(split, self.corpus.tokenizer, word_log_odds(self.queries[queries]))
            scores = open_scores(inputs["scores"].path)[0]
            metrics = attribution_metrics(scores, self.train_mask()[:], annotation[:], known_tokens(split), words)
            write_json(directory / METRICS_FILE, {"all": metrics})

        settings = {"queries": self._settings("behaviours")[queries]}
        return self._build("attribution", 1, settings=settings, inputs=inputs, builder=build)


def _read(part: Artifact) -> dict[str, Any]:
    return json.loads((part.path / METRICS_FILE).read_text(encoding="utf-8"))
