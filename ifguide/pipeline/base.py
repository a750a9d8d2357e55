"""What all stages share: a configuration's parts, the corpus, training, and how an artifact is built or found."""

import re
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ifguide.classifiers import Classifier
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.filters import DocumentFilter
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.queries import Query, check_queries
from ifguide.corpus.sources import by_content
from ifguide.corpus.tokenizers import check_same_tokenizer
from ifguide.evaluation.task import Continuations
from ifguide.influence.scorers import FiniteDifference
from ifguide.models import check_context, check_new_tokens, check_pretrained, load_model, tracked_layers
from ifguide.tracking import WHOLE_RUN, WandbRun
from ifguide.training.classifier import TrainedClassifier
from ifguide.training.context import TrainingContext, save_trained
from ifguide.training.fit import train
from ifguide.workspace import Artifact, Workspace, global_rank

INFLUENCE_STAGES = ("factors", "direction", "scores", "pooled", "mask")
STAGES = ("data", "proxy", *INFLUENCE_STAGES, "filtered", "model", "evaluate")
MASK_FILE = "mask.npy"
LOADING = ("attention", "trust_remote_code")  # settings of a model that decide no weights
DTYPES = ("float32", "bfloat16")
SPEED = ("batch_size", "shard_blocks")  # settings of influence that decide no result
SEEDS = ("seed", "model.seed", "proxy.seed", "data.seed", "influence.seed")


def check_count(cfg: DictConfig, setting: str, *, least: int) -> None:
    """Raise ValueError unless a setting is a whole number, not below the least."""
    value = OmegaConf.select(cfg, setting)
    if type(value) is not int or value < least:
        raise ValueError(f"{setting}={value}: it is a whole number, {least} or more")


class Stages:
    """One configuration: its parts, its corpus, and the building of artifacts.

    Each stage returns an artifact, built or found in the workspace. What decides an artifact's content is written out
    in its `settings`; hardware, batch sizes of inference and shard sizes never are.

    Args:
        cfg: the composed configuration (`conf/config.yaml`).

    Raises:
        ValueError: anything a user can get wrong, before any long work starts.
    """

    def __init__(self, cfg: DictConfig) -> None:
        if cfg.stage not in STAGES:
            raise ValueError(f"stage={cfg.stage}; known: {', '.join(STAGES)}, report")
        for seed in SEEDS:
            check_count(cfg, seed, least=0)
        for name in SPEED:
            check_count(cfg, f"influence.{name}", least=1)
        if cfg.influence.last_blocks is not None:
            check_count(cfg, "influence.last_blocks", least=1)
        self.cfg = cfg
        self.artifacts: dict[str, Path] = {}  # what was built or found so far, by role
        self._trained_classifiers: dict[str, Artifact] = {}  # by name
        if cfg.paths.workspace is None:
            raise ValueError("paths.workspace=None: it is the folder that artifacts are kept in")
        self.workspace = Workspace(cfg.paths.workspace, verify=cfg.paths.verify)
        self.hardware = instantiate(cfg.trainer, _convert_="all")
        self.objective = instantiate(cfg.objective)
        self.optimizations = {
            "model": ("optim", instantiate(cfg.optim, _convert_="all")),
            "proxy": ("proxy_optim", instantiate(cfg.proxy_optim, _convert_="all")),
        }
        self.curvature, self.scorer, self.selection = (
            instantiate(cfg[k]) for k in ("curvature", "scorer", "selection")
        )
        self.pooling = instantiate(cfg.pooling) or None
        self.filter: DocumentFilter | None = instantiate(cfg.filter) or None
        self.build_corpus = instantiate(cfg.data)
        self.callbacks = instantiate(cfg.callbacks, _convert_="all")
        # such a callback adds to the model's artifact, so it belongs to its fingerprint; the proxy goes without
        self._leaving_files = [name for name, callback in self.callbacks.items() if hasattr(callback, "leaves_files")]
        for key, (_, optimization) in self.optimizations.items():
            self.hardware.accumulate(optimization.batch_size)
            check_pretrained(cfg[key].pretrained, f"{key}.pretrained")
            if optimization.epochs == 0 and cfg[key].pretrained is None:
                raise ValueError(f"{key} is trained for 0 epochs from nothing; set {key}.pretrained or its epochs")
        influence = cfg.influence
        if influence.dtype not in DTYPES:
            raise ValueError(f"influence.dtype={influence.dtype}; known: {', '.join(DTYPES)}")
        try:
            re.compile(influence.layers or "")
        except (re.error, TypeError) as error:
            raise ValueError(f"influence.layers={influence.layers}: not a regular expression ({error})") from None
        if influence.dtype != "float32" and isinstance(self.scorer, FiniteDifference):
            raise ValueError(f"scorer=finite_difference needs influence.dtype=float32, not {influence.dtype}")
        if self.taught or cfg.stage in INFLUENCE_STAGES or self._leaving_files:
            for queries in self.queries.values():
                check_queries(queries)

    @property
    def taught(self) -> bool:
        """Whether the target is made with the queries."""
        return self.objective.uses_mask or (self.filter is not None and self.filter.uses_queries)

    @cached_property
    def queries(self) -> dict[str, list[Query]]:
        """Behaviour → its toxic and non-toxic queries."""
        return {name: instantiate(queries) for name, queries in self.cfg.behaviours.items()}

    @cached_property
    def tasks(self) -> dict[str, Continuations]:
        """Task → the prompts that are continued."""
        return {name: instantiate(task) for name, task in self.cfg.tasks.items()}

    @cached_property
    def classifier(self) -> Classifier:
        return self.make_classifier(self.cfg.classifier)

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus(self.data().path)

    @cache  # noqa: B019 (a pipeline lives as long as its run)
    def data(self) -> Artifact:
        artifact = self._build("data", 1, settings=self._settings("data"), inputs={}, builder=self.build_corpus)
        corpus = Corpus(artifact.path)
        for key in ("model", "proxy"):
            # before anything is trained; the models themselves are built on no device, so this takes no memory
            check_same_tokenizer(self.cfg[key].pretrained, corpus.tokenizer)
            config = self._config(key, corpus)
            check_context(config, corpus.info["block_length"])
            if key == "model" and self.cfg.stage == "evaluate":
                for task in self.tasks.values():
                    check_new_tokens(config, task.max_new_tokens)
        if self.cfg.proxy.pretrained is None:
            with torch.device("meta"):
                proxy = self._new_model("proxy", corpus)
            tracked_layers(proxy, match=self.cfg.influence.layers, last_blocks=self.cfg.influence.last_blocks)
        return artifact

    def _trained(
        self,
        key: str,
        objective: Mapping[str, Any],
        mask: Artifact | None,
        filtered: Artifact | None = None,
        *,
        role: str | None = None,
        bare: bool = False,
    ) -> Artifact:
        """Train the model of `cfg[key]`; equal settings give one artifact, whoever asks for it.

        Args:
            key: `model` or `proxy`.
            objective: its settings.
            mask: for objectives that use one; of the filtered corpus, where there is one.
            filtered: what a filter left of the corpus.
            role: what the model is there for; default: the key.
            bare: without the callbacks that leave files; a proxy always is.
        """
        bare, role = bare or key != "model", role or key
        optim_key, optimization = self.optimizations[key]
        settings = {
            "model": self._settings(key, without=LOADING),
            "optim": self._settings(optim_key),
            "objective": objective,
            "precision": self.hardware.precision,
        }
        if not bare:
            for name in self._leaving_files:
                settings[name] = {k: v for k, v in self._settings("callbacks")[name].items() if k not in SPEED}
        inputs = {"data": self.data()}
        inputs |= {name: made for name, made in (("mask", mask), ("filtered", filtered)) if made is not None}

        def build(directory: Path) -> dict[str, Any]:
            tokenizer, model = self.corpus.tokenizer, self._new_model(key, self.corpus)
            facts = train(
                model,
                instantiate(objective),
                optimization,
                TrainingContext(
                    self.hardware,
                    directory,
                    self._logger(role),
                    self._watching() if bare else list(self.callbacks.values()),
                ),
                blocks=(self.corpus if filtered is None else Corpus(filtered.path)).split("train"),
                mask=None if mask is None else TokenMask.open(mask.path / MASK_FILE, self.corpus.info["block_length"]),
                validation=self.corpus.split("validation"),
                seed=self.cfg[key].seed,
                tokenizer=tokenizer,
            )
            facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
            save_trained(model, tokenizer, directory)
            return facts

        return self._build(
            "model",
            1,
            role=role,
            settings=settings,
            inputs=inputs,
            builder=build,
            resumable=True,
            collective=True,
        )

    def make_classifier(self, settings: DictConfig, role: str = "classifier") -> Classifier:
        """The classifier of some settings; one that is trained here is built or found first."""
        made = instantiate(settings)
        if not isinstance(made, TrainedClassifier):
            return made
        values = by_content(OmegaConf.to_container(settings, resolve=True))
        artifact = self._build("classifier", 1, role=role, settings=values, inputs={}, builder=made.fit)
        classifier = made.load(artifact.path)
        self._trained_classifiers[classifier.name] = artifact
        return classifier

    def _classifier_inputs(self, classifier: Classifier) -> dict[str, Artifact]:
        """The artifact of a classifier that was trained here, an input of what it judges."""
        artifact = self._trained_classifiers.get(classifier.name)
        return {} if artifact is None else {"classifier": artifact}

    def _watching(self) -> list[Any]:
        """The callbacks that leave no file."""
        return [callback for name, callback in self.callbacks.items() if name not in self._leaving_files]

    def _new_model(self, key: str, corpus: Corpus) -> PreTrainedModel:
        return instantiate(self.cfg[key], vocabulary=corpus.vocabulary, end_of_text=corpus.tokenizer.eos_token_id)

    def _config(self, key: str, corpus: Corpus, pretrained: str | None = None) -> PreTrainedConfig:
        """Of `cfg[key]`, or of another model that is loaded as that one is, without its weights."""
        name = pretrained or self.cfg[key].pretrained
        if name is not None:
            return AutoConfig.from_pretrained(name, trust_remote_code=self.cfg[key].trust_remote_code)
        with torch.device("meta"):
            return self._new_model(key, corpus).config

    def _logger(self, key: str) -> Any:
        logger = instantiate(self.cfg.logger, name=key)
        logger.log_hyperparams(OmegaConf.to_container(self.cfg, resolve=True))
        return logger

    def track(self) -> WandbRun | None:
        """The W&B run of this run, started with its settings; None with another logger."""
        logger = self._logger(WHOLE_RUN)
        return logger if isinstance(logger, WandbRun) else None

    def _load(self, artifact: Artifact, key: str = "model") -> PreTrainedModel:
        return load_model(artifact.path, **self._loading(key)).to(self.hardware.device).eval()

    def _loading(self, key: str = "model") -> dict[str, Any]:
        """How a model of these settings is loaded; a model's folder does not say."""
        return {name: self.cfg[key][name] for name in LOADING}

    def _build(self, stage: str, version: int, *, role: str | None = None, **options: Any) -> Artifact:
        artifact = self.workspace.build(stage, version=version, **options)
        role = role or stage
        if global_rank() == 0 and role not in self.artifacts:
            self.artifacts[role] = artifact.path
            seconds = "found" if artifact.reused else f"{artifact.manifest['seconds']:.0f} s"
            print(f"{role:12} {artifact.path}  ({seconds})", flush=True)
        return artifact

    def _settings(self, key: str, without: tuple[str, ...] = ()) -> Any:
        """Resolved settings of one part of the configuration (as in `filter.classifier`), with files replaced by what
        they hold."""
        values: Any = OmegaConf.to_container(OmegaConf.select(self.cfg, key), resolve=True)
        return by_content({name: value for name, value in values.items() if name not in without})
