"""The stages of the target: mask → model → generations."""

from functools import cache, cached_property
from pathlib import Path

from hydra.utils import instantiate

from ifguide.evaluation.generation import (
    GENERATIONS_FILE,
    decode_continuations,
    encode_prompts,
    sample_continuations,
    save_generations,
)
from ifguide.evaluation.task import Continuations
from ifguide.pipeline.influence import InfluenceStages
from ifguide.workspace import Artifact


class TargetStages(InfluenceStages):
    """The target model, and what it writes."""

    @cached_property
    def tasks(self) -> dict[str, Continuations]:
        """Task → the prompts that are continued."""
        return {name: instantiate(task) for name, task in self.cfg.tasks.items()}

    def model(self) -> Artifact:
        mask = self.mask() if self.objective.uses_mask else None
        return self._trained("model", self._settings("objective"), mask)

    @cache  # noqa: B019
    def generations(self, name: str) -> Artifact:
        """Continuations of the prompts of a task."""
        artifact, task = self.model(), self.tasks[name]

        def build(directory: Path) -> None:
            model, tokenizer = self._load(artifact), self.corpus.tokenizer
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
            "evaluation": self._settings("tasks")[name],
            "decoding": self._settings("decoding"),
            "seed": self.cfg.seed,
        }
        role = "generations" if name == next(iter(self.tasks)) else f"generations of {name}"
        return self._build("generations", 1, role=role, settings=settings, inputs={"model": artifact}, builder=build)
