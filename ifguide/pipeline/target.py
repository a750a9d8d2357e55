"""The stages of the target: mask → model → generations."""

from functools import cache
from pathlib import Path

from ifguide.evaluation.generation import (
    GENERATIONS_FILE,
    decode_continuations,
    encode_prompts,
    sample_continuations,
    save_generations,
)
from ifguide.pipeline.auxiliary import AuxiliaryStages
from ifguide.pipeline.base import SPEED
from ifguide.workspace import Artifact


class TargetStages(AuxiliaryStages):
    """The target model, and what it writes."""

    def model(self) -> Artifact:
        filtered = None if self.filter is None else self.filtered()
        mask = None if not self.objective.uses_mask else self.mask() if filtered is None else self.filtered_mask()
        role = "model" if self.post_training is None else "trained"
        return self._post_trained(self._trained("model", self._settings("objective"), mask, filtered, role=role))

    @cache  # noqa: B019
    def generations(self, name: str) -> Artifact:
        """Continuations of the prompts of a task."""
        artifact, auxiliaries, task = self.model(), self.auxiliaries(), self.tasks[name]

        def build(directory: Path) -> None:
            model, tokenizer = self._load(artifact), self.corpus.tokenizer
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
            "evaluation": self._settings("tasks")[name],
            "decoding": self._settings("decoding", without=SPEED),
            "seed": self.cfg.seed,
        }
        role = "generations" if name == next(iter(self.tasks)) else f"generations of {name}"
        inputs = {"model": artifact} | auxiliaries
        return self._build("generations", 2, role=role, settings=settings, inputs=inputs, builder=build)
