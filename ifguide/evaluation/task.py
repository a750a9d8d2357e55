"""What is generated for an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

from ifguide.corpus.documents import Prompt


@dataclass(frozen=True)
class Continuations:
    """Sampled continuations of prompts.

    Args:
        prompts: what is continued.
        samples: continuations per prompt.
        max_new_tokens: longest continuation.
        rows: sequences generated at the same time.
    """

    prompts: Sequence[Prompt]
    samples: int = 25
    max_new_tokens: int = 20
    rows: int = 1000

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("evaluation.prompts: there is no prompt to evaluate on")
        for name in ("samples", "max_new_tokens", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name}={getattr(self, name)}: must be at least 1")
