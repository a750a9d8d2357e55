"""The stages of a run and what each one needs: data → proxy → … → mask → model → generations → evaluation."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ifguide.corpus.masks import TokenMask
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
from ifguide.influence.store import open_scores
from ifguide.pipeline.auxiliary import AuxiliaryStages
from ifguide.pipeline.base import SPEED
from ifguide.workspace import Artifact, write_json

METRICS_FILE = "metrics.json"


class Pipeline(AuxiliaryStages):
    """All stages of one configuration; `stage(name)` is the artifact of the last one wanted."""

    def stage(self, name: str) -> Artifact:
        return self.evaluation() if name == "evaluate" else getattr(self, name)()

    def model(self) -> Artifact:
        mask = self.mask() if self.objective.uses_mask else None
        role = "model" if self.post_training is None else "trained"
        return self._post_trained(self._trained("model", self._settings("objective"), mask, role=role))

    @cache  # noqa: B019
    def generations(self) -> Artifact:
        artifact, auxiliaries = self.model(), self.auxiliaries()

        def build(directory: Path) -> None:
            model, tokenizer, task = self._load(artifact), self.corpus.tokenizer, self.task
            longest = getattr(model.config, "max_position_embeddings", 1 << 30) - task.max_new_tokens
            tokens = sample_continuations(
                model,
                encode_prompts(task.prompts, tokenizer, longest),
                decoder=self.decoder(auxiliaries),
                samples=task.samples,
                max_new_tokens=task.max_new_tokens,
                end_of_text=tokenizer.eos_token_id,
                rows=task.rows,
                seed=self.cfg.seed,
            )
            save_generations(directory / GENERATIONS_FILE, task.prompts, decode_continuations(tokens, tokenizer))

        settings = {
            "evaluation": self._settings("evaluation"),
            "decoding": self._settings("decoding", without=SPEED),
            "seed": self.cfg.seed,
        }
        return self._build("generations", 1, settings=settings, inputs={"model": artifact} | auxiliaries, builder=build)

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
            metrics: dict[str, Any] = {"toxicity": toxicity_metrics(scores["toxicity"], rows["subset"])}
            if not self.decoding.auxiliaries:  # the model's own perplexity says nothing about a decoder that steers it
                test = self.corpus.split("test")
                losses = block_losses(self._load(inputs["model"]), test, batch_size=self.cfg.influence.batch_size)
                metrics["perplexity"] = perplexity_metrics(losses, test)
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

    def _attribution(self, annotation: TokenMask) -> dict[str, float]:
        split = self.corpus.split("train")
        words = word_list_scores(split, self.corpus.tokenizer, word_log_odds(next(iter(self.queries.values()))))
        scores = open_scores(self.pooled().path)[0]
        return attribution_metrics(scores, self.train_mask()[:], annotation[:], known_tokens(split), words)
