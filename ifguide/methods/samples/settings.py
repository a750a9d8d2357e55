"""How a model is asked for texts to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

from ifguide.checks import check_limit, check_seed, check_whole_number
from ifguide.corpus.documents import Prompt, Query
from ifguide.decoding.nucleus import check_top_p


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Continuations of the queries' prompts, which no evaluation prompt is among.

    Args:
        limit: prompts, the first ones; None: all.
        samples: continuations of each prompt.
        max_new_tokens: longest continuation.
        top_p: probability of the nucleus; 1 samples from the model itself, which R and policy gradients are defined by.
        rows: sequences generated at the same time; they decide which random numbers a row draws.
        seed: of the sampling.

    Raises:
        ValueError: an argument out of range.
    """

    limit: int | None = None
    samples: int = 25
    max_new_tokens: int = 20
    top_p: float = 1.0
    rows: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_limit(self.limit)
        check_top_p(self.top_p)
        check_seed(self.seed)
        for name in ("samples", "max_new_tokens", "rows"):
            check_whole_number(name, getattr(self, name), least=1)

    def prompts(self, queries: Sequence[Query]) -> list[Prompt]:
        """The prompts of queries, each once, in their order; those of toxic ones are of the subset `toxic`.

        Raises:
            ValueError: no query has a prompt.
        """
        subsets: dict[str, Prompt] = {}
        for query in queries:
            if query.prompt.strip():
                subset = "toxic" if query.toxic else "nontoxic"
                subsets.setdefault(query.prompt, Prompt(text=query.prompt, subset=subset, record=query.record))
        if not subsets:
            raise ValueError("behaviours: no query has a prompt, which a model could continue")
        return list(subsets.values())[: self.limit]
