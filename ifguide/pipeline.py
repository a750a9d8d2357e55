"""The stages of a run and what each one needs: data → proxy → factors → direction → scores → mask → model → evaluation.

Each method of `Pipeline` returns an artifact, built or found in the workspace. What decides an artifact's content is
written out in its `settings`; hardware, batch sizes of inference and shard sizes never are.
"""

import json
from collections.abc import Mapping
from functools import cache, cached_property, reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.queries import Query, check_disjoint, check_queries, encode_queries
from ifguide.corpus.sources import by_content
from ifguide.corpus.tokenizers import check_same_tokenizer
from ifguide.evaluation.attribution import attribution_metrics, known_tokens, word_list_scores, word_log_odds
from ifguide.evaluation.fluency import block_losses, perplexity_metrics
from ifguide.evaluation.generation import (
    GENERATIONS_FILE,
    decode_continuations,
    encode_prompts,
    load_generations,
    sample_continuations,
    save_generations,
)
from ifguide.evaluation.toxicity import classify_continuations, toxicity_metrics
from ifguide.influence.amortised import Amortised
from ifguide.influence.curvature import load_factors, save_factors
from ifguide.influence.direction import load_direction, precondition_direction, query_gradient, save_direction
from ifguide.influence.pooling import chunks
from ifguide.influence.scorers import Scorer, TokenScorer
from ifguide.influence.scoring import ScoringModule, fill_store, prepare_scorer, sample_rows
from ifguide.influence.store import ScoreStore, create_scores, open_scores
from ifguide.models import check_context, check_pretrained, load_model, tracked_layers
from ifguide.training.fit import remove_checkpoints, train
from ifguide.workspace import Artifact, ArtifactError, Workspace, global_rank, write_json

INFLUENCE_STAGES = ("factors", "direction", "scores", "pooled", "mask")
STAGES = ("data", "proxy", *INFLUENCE_STAGES, "model", "evaluate")
MASK_FILE = "mask.npy"
METRICS_FILE = "metrics.json"
STUDENT_TOKENS = 8192  # that a student reads at a time
UNCENSORED = {"_target_": "ifguide.objectives.LanguageModeling"}


class Pipeline:
    """All stages of one configuration.

    Args:
        cfg: the composed configuration (`conf/config.yaml`).

    Raises:
        ValueError: anything a user can get wrong, before any long work starts.
    """

    def __init__(self, cfg: DictConfig) -> None:
        if cfg.stage not in STAGES:
            raise ValueError(f"stage={cfg.stage}; known: {', '.join(STAGES)}")
        self.cfg = cfg
        self.artifacts: dict[str, Path] = {}  # what was built or found so far, by role
        self.workspace = Workspace(cfg.paths.workspace, verify=cfg.paths.verify)
        self.hardware = instantiate(cfg.trainer)
        self.objective = instantiate(cfg.objective)
        self.optimizations = {
            "model": ("optim", instantiate(cfg.optim)),
            "proxy": ("proxy_optim", instantiate(cfg.proxy_optim)),
        }
        self.curvature, self.scorer, self.selection = (
            instantiate(cfg[k]) for k in ("curvature", "scorer", "selection")
        )
        self.pooling = instantiate(cfg.pooling) or None
        self.build_corpus = instantiate(cfg.data)
        self.callbacks = instantiate(cfg.callbacks, _convert_="all")
        # such a callback adds to the model's artifact, so it belongs to its fingerprint; the proxy goes without
        self._leaving_files = [name for name, callback in self.callbacks.items() if hasattr(callback, "leaves_files")]
        for key, (_, optimization) in self.optimizations.items():
            self.hardware.accumulate(optimization.batch_size)
            check_pretrained(cfg[key].pretrained, key)
            if optimization.epochs == 0 and cfg[key].pretrained is None:
                raise ValueError(f"{key} is trained for 0 epochs from nothing; set {key}.pretrained or its epochs")
        if self.objective.uses_mask or cfg.stage in INFLUENCE_STAGES:
            for queries in self.queries.values():
                check_queries(queries)
        if cfg.stage == "evaluate":
            instantiate(cfg.decoding)
            assert self.task.prompts and self.classifier.name
            if self.objective.uses_mask:
                for queries in self.queries.values():
                    check_disjoint(queries, self.task.prompts)

    @cached_property
    def queries(self) -> dict[str, list[Query]]:
        """Behaviour → its toxic and non-toxic queries."""
        return {name: instantiate(queries) for name, queries in self.cfg.behaviours.items()}

    @cached_property
    def task(self) -> Any:
        return instantiate(self.cfg.evaluation)

    @cached_property
    def classifier(self) -> Any:
        return instantiate(self.cfg.classifier)

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus(self.data().path)

    def stage(self, name: str) -> Artifact:
        return self.evaluation() if name == "evaluate" else getattr(self, name)()

    # --- corpus ---

    @cache  # noqa: B019 (a pipeline lives as long as its run)
    def data(self) -> Artifact:
        artifact = self._build("data", 1, settings=self._settings("data"), inputs={}, builder=self.build_corpus)
        corpus = Corpus(artifact.path)
        for key in ("model", "proxy"):
            # before anything is trained; the models themselves are built on no device, so this takes no memory
            check_same_tokenizer(self.cfg[key].pretrained, corpus.tokenizer, key)
            if self.cfg[key].pretrained is None:
                with torch.device("meta"):
                    model = self._new_model(key, corpus)
                check_context(model, corpus.info["block_length"])
        return artifact

    # --- influence ---

    def proxy(self) -> Artifact:
        """The model whose gradients are taken; the uncensored model of its seed where the settings are the target's."""
        return self._trained("proxy", UNCENSORED, None)

    @cache  # noqa: B019
    def factors(self) -> Artifact:
        proxy, data = self.proxy(), self.data()

        def build(directory: Path) -> dict[str, Any]:
            split, model, influence = self.corpus.split("train"), self._load(proxy), self.cfg.influence
            rows = sample_rows(len(split), self.curvature.blocks, influence.seed)
            factors = self.curvature.fit(
                model,
                split.tokens(rows),
                batch_size=influence.batch_size,
                seed=influence.seed,
                layers=self._layers(model),
                progress=self.hardware.progress,
            )
            save_factors(factors, directory)
            return {"blocks": len(rows)}

        settings = self._settings("curvature", without=("damping", "relative")) | self._influence_settings(
            "seed", "layers", "last_blocks"
        )
        return self._build("factors", 2, settings=settings, inputs={"proxy": proxy, "data": data}, builder=build)

    @cache  # noqa: B019
    def direction(self, behaviour: str | None = None) -> Artifact:
        """The direction of a behaviour, the first unless named."""
        behaviour = behaviour or next(iter(self.queries))
        proxy, data, factors = self.proxy(), self.data(), self.factors()
        chosen = self.queries[behaviour]

        def build(directory: Path) -> dict[str, Any]:
            model = self._load(proxy)
            queries = encode_queries(chosen, self.corpus.tokenizer, self.corpus.info["block_length"])
            gradients = query_gradient(
                model, queries, batch_size=self.cfg.influence.batch_size, layers=self._layers(model)
            )
            direction = precondition_direction(model, gradients, load_factors(factors.path), self.curvature)
            save_direction(direction, directory)
            return {
                "toxic_queries": sum(query.toxic for query in queries),
                "nontoxic_queries": sum(not query.toxic for query in queries),
                "gradient_norm": _norm(gradients),
                "direction_norm": _norm(direction),
            }

        settings = {"queries": self._settings("behaviours")[behaviour], "curvature": self._settings("curvature")}
        inputs = {"proxy": proxy, "data": data, "factors": factors}
        role = "direction" if len(self.queries) == 1 else f"direction of {behaviour}"
        return self._build("direction", 2, role=role, settings=settings, inputs=inputs, builder=build)

    @cache  # noqa: B019
    def scores(self) -> Artifact:
        """Scores of all training tokens; pooled, where a pooling is chosen."""
        settings = self._settings("scorer")
        if isinstance(self.scorer, Amortised):
            return self._amortised_scores(self.scorer, settings)
        return self._exact_scores("scores", self.scorer, settings)

    def _exact_scores(self, role: str, scorer: Scorer, settings: Any, share: float = 1.0, seed: int = 0) -> Artifact:
        """Scores along all directions of all training blocks, or of a random share of them."""
        proxy, data, influence = self.proxy(), self.data(), self.cfg.influence
        directions = {name: self.direction(name) for name in self.queries}

        def build(directory: Path) -> dict[str, Any]:
            split = self.corpus.split("train")
            rows = self._sample(share, seed)
            model = load_model(proxy.path, trust_remote_code=self.cfg.model.trust_remote_code)
            vectors = [load_direction(direction.path, model) for direction in directions.values()]
            store = ScoreStore(
                directory, (len(directions), len(rows), split.block_length), shard_blocks=influence.shard_blocks
            )

            def tokens(places: Any) -> NDArray[np.int64]:
                return split.tokens(rows[places])

            module = ScoringModule(
                model.to(getattr(torch, influence.dtype)),
                lambda model: prepare_scorer(scorer, model, vectors, tokens, store.shape, influence.seed),
                store,
                tokens,
                batch_size=influence.batch_size,
            )
            return {"behaviours": list(directions), **fill_store(self.hardware.inference_trainer(), module)}

        sampled = {} if share == 1 else {"share": share, "seed": seed}
        return self._build(
            "scores",
            2,
            role=role,
            settings=settings | self._influence_settings("dtype") | sampled,
            inputs={"proxy": proxy, "data": data} | {f"direction of {name}": d for name, d in directions.items()},
            builder=build,
            resumable=True,
            collective=True,
        )

    def _amortised_scores(self, amortised: Amortised, settings: Any) -> Artifact:
        """Scores of all training blocks by a student of exact scores of some."""
        exact = self._exact_scores("exact scores", amortised.exact, settings["exact"], amortised.share, amortised.seed)
        data = self.data()

        def fit(directory: Path) -> dict[str, Any]:
            split, rows = self.corpus.split("train"), self._sample(amortised.share, amortised.seed)
            student, facts = amortised.student.fit(
                open_scores(exact.path), lambda places: split.tokens(rows[places]), self.corpus.vocabulary
            )
            student.save(directory)
            return {"blocks": len(rows), **facts}

        student = self._build(
            "student", 1, settings=settings["student"], inputs={"data": data, "exact": exact}, builder=fit
        )

        def build(directory: Path) -> dict[str, Any]:
            split = self.corpus.split("train")
            store = ScoreStore(
                directory, (len(self.queries), *split.shape), shard_blocks=self.cfg.influence.shard_blocks
            )
            module = ScoringModule(
                amortised.student.load(student.path),
                lambda model: TokenScorer(model.scores),
                store,
                split.tokens,
                batch_size=STUDENT_TOKENS // split.block_length,
            )
            return {"behaviours": list(self.queries), **fill_store(self.hardware.inference_trainer(), module)}

        return self._build(
            "scores",
            2,
            settings={},
            inputs={"data": data, "student": student},
            builder=build,
            resumable=True,
            collective=True,
        )

    def _sample(self, share: float, seed: int) -> NDArray[np.int64]:
        blocks = len(self.corpus.split("train"))
        return np.arange(blocks) if share == 1 else sample_rows(blocks, max(1, round(share * blocks)), seed)

    @cache  # noqa: B019
    def pooled(self) -> Artifact:
        """The scores that are selected from: those of single tokens, or pooled ones."""
        data, scores, pooling = self.data(), self.scores(), self.pooling
        if pooling is None:
            return scores

        def build(directory: Path) -> dict[str, Any]:
            columns, split = open_scores(scores.path), self.corpus.split("train")
            table, facts = pooling.fit(columns, split.tokens, self.corpus.vocabulary)
            with create_scores(directory, columns.shape) as pooled:
                for rows in chunks(split.shape):
                    pooled[:, rows] = table.scores(torch.from_numpy(split.tokens(rows))).numpy()
            return facts

        inputs = {"data": data, "scores": scores}
        return self._build("pooled", 1, settings=self._settings("pooling"), inputs=inputs, builder=build)

    @cache  # noqa: B019
    def mask(self) -> Artifact:
        if self.cfg.paths.mask is not None:
            return self._foreign_mask(Path(self.cfg.paths.mask))
        data, scores = self.data(), self.pooled()

        def build(directory: Path) -> dict[str, Any]:
            starts = self.corpus.split("train").documents["start"]
            facts, masks = {}, []
            for name, column in zip(self.queries, open_scores(scores.path), strict=True):
                selection = self.selection(column, starts)
                masks.append(selection.mask)
                facts[name] = selection.facts
                if selection.selected < selection.wanted:
                    print(
                        f"Selected {selection.selected} tokens of the {selection.wanted} that selection.limit allows: "
                        "no more tokens are above the threshold or beside one"
                    )
            union = reduce(or_, masks)
            union.save(directory / MASK_FILE)
            return {"selected": union.count(), "behaviours": facts}

        inputs = {"data": data, "scores": scores}
        return self._build("mask", 2, settings=self._settings("selection"), inputs=inputs, builder=build)

    # --- target ---

    def model(self) -> Artifact:
        mask = self.mask() if self.objective.uses_mask else None
        return self._trained("model", self._settings("objective"), mask)

    # --- evaluation ---

    @cache  # noqa: B019
    def generations(self) -> Artifact:
        artifact = self.model()

        def build(directory: Path) -> None:
            model, tokenizer, task = self._load(artifact), self.corpus.tokenizer, self.task
            longest = getattr(model.config, "max_position_embeddings", 1 << 30) - task.max_new_tokens
            tokens = sample_continuations(
                model,
                encode_prompts(task.prompts, tokenizer, longest),
                processors=instantiate(self.cfg.decoding),
                samples=task.samples,
                max_new_tokens=task.max_new_tokens,
                end_of_text=tokenizer.eos_token_id,
                rows=task.rows,
                seed=self.cfg.seed,
            )
            save_generations(directory / GENERATIONS_FILE, task.prompts, decode_continuations(tokens, tokenizer))

        settings = {
            "evaluation": self._settings("evaluation"),
            "decoding": self._settings("decoding"),
            "seed": self.cfg.seed,
        }
        return self._build("generations", 1, settings=settings, inputs={"model": artifact}, builder=build)

    @cache  # noqa: B019
    def evaluation(self) -> Artifact:
        inputs = {"data": self.data(), "model": self.model(), "generations": self.generations()}
        if self.objective.uses_mask:
            inputs |= {"mask": self.mask()}
            if self.cfg.paths.mask is None:
                inputs |= {"scores": self.pooled()}

        def build(directory: Path) -> None:
            rows = load_generations(inputs["generations"].path / GENERATIONS_FILE)
            scores = classify_continuations(rows["continuations"], self.classifier)
            np.savez(directory / "probabilities.npz", **scores)  # type: ignore[arg-type]
            test = self.corpus.split("test")
            losses = block_losses(self._load(inputs["model"]), test, batch_size=self.cfg.influence.batch_size)
            metrics: dict[str, Any] = {
                "toxicity": toxicity_metrics(scores["toxicity"], rows["subset"]),
                "perplexity": perplexity_metrics(losses, test),
            }
            annotation = self.corpus.split("train").annotation
            if "scores" in inputs and annotation is not None and annotation.count():
                metrics["attribution"] = {"all": self._attribution(annotation)}
            write_json(directory / METRICS_FILE, metrics)

        settings = {
            "classifier": self.classifier.name,
            "settings": self._settings("classifier", without=("device", "batch_size")),
        }
        return self._build("evaluation", 1, settings=settings, inputs=inputs, builder=build)

    def metrics(self) -> dict[str, Any]:
        return json.loads((self.evaluation().path / METRICS_FILE).read_text(encoding="utf-8"))

    def train_mask(self) -> TokenMask:
        return TokenMask.open(self.mask().path / MASK_FILE, self.corpus.info["block_length"])

    # --- shared by the stages ---

    def _trained(self, key: str, objective: Mapping[str, Any], mask: Artifact | None) -> Artifact:
        """Train the model of `cfg[key]`; equal settings give one artifact, whoever asks for it."""
        optim_key, optimization = self.optimizations[key]
        settings = {
            "model": self._settings(key, without=("attention", "trust_remote_code")),
            "optim": self._settings(optim_key),
            "objective": objective,
            "precision": self.hardware.precision,
        }
        callbacks = list(self.callbacks.values())
        if key == "model":
            settings |= {name: self._settings("callbacks")[name] for name in self._leaving_files}
        else:
            callbacks = [callback for name, callback in self.callbacks.items() if name not in self._leaving_files]
        inputs = {"data": self.data()} | ({} if mask is None else {"mask": mask})

        def build(directory: Path) -> dict[str, Any]:
            tokenizer, model = self.corpus.tokenizer, self._new_model(key, self.corpus)
            check_context(model, self.corpus.info["block_length"])
            facts = train(
                model,
                instantiate(objective),
                optimization,
                self.hardware,
                blocks=self.corpus.split("train"),
                mask=None if mask is None else TokenMask.open(mask.path / MASK_FILE, self.corpus.info["block_length"]),
                validation=self.corpus.split("validation"),
                seed=self.cfg[key].seed,
                directory=directory,
                logger=self._logger(key),
                callbacks=callbacks,
                tokenizer=tokenizer,
            )
            facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
            if global_rank() == 0:
                model.save_pretrained(directory)
                tokenizer.save_pretrained(directory)
                remove_checkpoints(directory)
            return facts

        return self._build(
            "model", 1, role=key, settings=settings, inputs=inputs, builder=build, resumable=True, collective=True
        )

    def _layers(self, model: PreTrainedModel) -> list[str]:
        influence = self.cfg.influence
        return list(tracked_layers(model, match=influence.layers, last_blocks=influence.last_blocks))

    def _influence_settings(self, *keys: str) -> dict[str, Any]:
        return {key: self.cfg.influence[key] for key in keys}

    def _new_model(self, key: str, corpus: Corpus) -> PreTrainedModel:
        return instantiate(self.cfg[key], vocabulary=corpus.vocabulary, end_of_text=corpus.tokenizer.eos_token_id)

    def _foreign_mask(self, path: Path) -> Artifact:
        """Another run's mask, if it is a mask of this corpus.

        Raises:
            ArtifactError: it is not.
        """
        mask, data = Artifact.open(path, stage="mask", verify=self.workspace.verify), self.data()
        theirs = mask.manifest["inputs"]["data"]
        if theirs != data.fingerprint:
            raise ArtifactError(
                f"paths.mask={path} was made for the corpus data-{theirs}, this run's is {data.path.name}: "
                "a mask belongs to one corpus; leave paths.mask unset to make one for this"
            )
        return mask

    def _attribution(self, annotation: TokenMask) -> dict[str, float]:
        split = self.corpus.split("train")
        words = word_list_scores(split, self.corpus.tokenizer, word_log_odds(next(iter(self.queries.values()))))
        scores = open_scores(self.pooled().path)[0]
        return attribution_metrics(scores, self.train_mask()[:], annotation[:], known_tokens(split), words)

    def _logger(self, key: str) -> Any:
        logger = instantiate(self.cfg.logger, name=key)
        logger.log_hyperparams(OmegaConf.to_container(self.cfg, resolve=True))
        return logger

    def _load(self, artifact: Artifact) -> PreTrainedModel:
        trusted = self.cfg.model.trust_remote_code
        return load_model(artifact.path, trust_remote_code=trusted).to(self.hardware.device).eval()

    def _build(self, stage: str, version: int, *, role: str | None = None, **options: Any) -> Artifact:
        artifact = self.workspace.build(stage, version=version, **options)
        role = role or stage
        if global_rank() == 0 and role not in self.artifacts:
            self.artifacts[role] = artifact.path
            seconds = "found" if artifact.reused else f"{artifact.manifest['seconds']:.0f} s"
            print(f"{role:12} {artifact.path}  ({seconds})", flush=True)
        return artifact

    def _settings(self, key: str, without: tuple[str, ...] = ()) -> Any:
        """Resolved settings of one part of the configuration, with files replaced by what they hold."""
        values: Any = OmegaConf.to_container(self.cfg[key], resolve=True)
        return by_content({name: value for name, value in values.items() if name not in without})


def _norm(vectors: Mapping[str, torch.Tensor]) -> float:
    return float(torch.stack([vector.double().square().sum() for vector in vectors.values()]).sum().sqrt())
