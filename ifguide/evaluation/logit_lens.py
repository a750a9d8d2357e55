"""Where in a model toxic words arise: the logit lens (nostalgebraist, 2020).

A model that writes no toxic word may never think of one, or may think of it and turn away in its last layers. The
final norm and the output head, applied to what a block hands on, say what the model would write were it to end there.

Shape suffixes: N texts, M places, L layers, H hidden, V vocabulary.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.checks import argument, check_whole_number
from ifguide.corpus.documents import LabelledText, Query
from ifguide.corpus.tokenizers import beginning_of_text
from ifguide.corpus.words import WordCounter, indicative_words, read_words
from ifguide.evaluation.fluency import Metrics
from ifguide.models import decoder_blocks, final_norm
from ifguide.statistics import ratio_interval

TOLERANCE = 0.02  # of the largest logit: low precision rounds, and scaled or capped logits are off by more


@dataclass(frozen=True, kw_only=True)
class LogitLens:
    """Probability of toxic tokens in every layer, at the places of toxic texts where a toxic word comes next.

    A token is toxic where at least a share `purity` of its occurrences in all the texts begins a word of the list: so
    ` idiot` is, and ` id`, with which other words begin, is not.

    Args:
        texts: labelled texts; places are looked for in the toxic ones.
        queries: from which words are learned, as `WordFilter` learns them.
        files: lists of words and phrases instead, as in `read_words`.
        column: the column of `.csv` files.
        log_odds: words learned from the queries have at least these log-odds of being in a toxic continuation.
        purity: see above.
        max_length: tokens of a text that are read.
        batch_size: texts at a time.

    Raises:
        ValueError: a setting out of range, no indicative word, or none in the toxic texts; when called, no token that
            is toxic, or a model whose logits are not the output head of one final norm.
    """

    NOT_SETTINGS: ClassVar = ("batch_size",)

    texts: Iterable[LabelledText]
    queries: Sequence[Query]
    files: str | Sequence[str] | None = None
    column: str | None = None
    log_odds: float = 2.0
    purity: float = 0.5
    max_length: int = 128
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("max_length", "batch_size"):
            check_whole_number(name, getattr(self, name), least=1)
        if not 0 < self.purity <= 1:
            raise ValueError(f"purity={self.purity}: a share above 0 and at most 1")
        if not any(toxic and starts for _, toxic, starts in self.occurrences):
            raise ValueError(f"texts: none of the {len(self.words)} words is in a toxic one; give others in `files`")

    @cached_property
    def words(self) -> list[str]:
        if self.files is None:
            return indicative_words(self.queries, self.log_odds)
        return read_words(self.files, self.column)

    @cached_property
    def occurrences(self) -> list[tuple[str, bool, list[int]]]:
        """Each text, whether it is toxic, and the characters at which words of the list begin."""
        find = WordCounter(self.words)
        with argument("texts"):
            return [(row.text, row.toxic, find.starts(row.text)) for row in self.texts]

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Metrics:
        """Mean probability of all toxic tokens together, with intervals (bootstrap over texts), under `all`.

        Returns:
            `layer_1` … `layer_L`: what each block's output would predict; `output_probability`: the last of them, the
            model's own prediction; `intermediate_probability`: the mean of the others; `places`, `tokens` (toxic ones).
        """
        longest = min(self.max_length, getattr(model.config, "max_position_embeddings", self.max_length + 1) - 1)
        encodings = tokenizer.backend_tokenizer.encode_batch(
            [text for text, *_ in self.occurrences], add_special_tokens=False
        )
        begins = [
            first_tokens(one.offsets, starts) for one, (*_, starts) in zip(encodings, self.occurrences, strict=True)
        ]
        tokens = toxic_tokens([one.ids for one in encodings], begins, purity=self.purity)
        rows, start = [], beginning_of_text(tokenizer, model.config)
        for (_, toxic, _), encoding, places in zip(self.occurrences, encodings, begins, strict=True):
            places = [place for place in places if place < longest and encoding.ids[place] in tokens]
            if toxic and places:
                # behind what a text begins after, a token stands one later: its index predicts it
                rows.append(([start, *encoding.ids[:longest]], places))
        if not rows:
            raise ValueError(
                f"purity={self.purity}: no token of a toxic text begins words of the list that often; "
                "use a lower share, or a tokenizer with more tokens"
            )
        rows.sort(key=lambda row: len(row[0]))
        sums_LN = lens_sums(model, rows, sorted(tokens), batch_size=self.batch_size)
        counts_N = np.array([len(places) for _, places in rows], dtype=np.float64)
        metrics: dict[str, int | float | list[float]] = {"places": int(counts_N.sum()), "tokens": len(tokens)}
        named = {f"layer_{number}": sums_N for number, sums_N in enumerate(sums_LN, start=1)}
        named["output_probability"] = sums_LN[-1]
        if len(sums_LN) > 1:
            named["intermediate_probability"] = sums_LN[:-1].mean(0)
        for name, sums_N in named.items():
            metrics[name] = float(sums_N.sum() / counts_N.sum())
            metrics[f"{name}_interval"] = ratio_interval(sums_N, counts_N)
        return {"all": metrics}


def first_tokens(offsets: Sequence[tuple[int, int]], starts: Sequence[int]) -> list[int]:
    """Indices of the tokens in which the characters at `starts` are."""
    wanted = set(starts)
    return [index for index, (start, end) in enumerate(offsets) if not wanted.isdisjoint(range(start, end))]


def toxic_tokens(ids: Sequence[Sequence[int]], begins: Sequence[Sequence[int]], *, purity: float) -> set[int]:
    """Tokens of which a share of at least `purity` stands at the indices `begins` of their text."""
    occurring = Counter(token for row in ids for token in row)
    beginning = Counter(row[index] for row, indices in zip(ids, begins, strict=True) for index in indices)
    return {token for token, count in beginning.items() if count >= purity * occurring[token]}


@torch.no_grad()
def lens_sums(
    model: PreTrainedModel,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    tokens: Sequence[int],
    *,
    batch_size: int,
) -> NDArray[np.float64]:
    """Probability of `tokens` together after each layer, summed over the places of a text: [L, N].

    Args:
        model: a causal language model.
        rows: token ids of each text, and the places whose prediction of the next token is read.
        tokens: a set of token ids.
        batch_size: texts at a time, padded on the right, which a causal model never looks at.

    Raises:
        ValueError: see `LogitLens`.
    """
    model.eval()
    norm, head = final_norm(model), model.get_output_embeddings()
    blocks = decoder_blocks(model)[1]
    chosen = torch.tensor(tokens, device=model.device)
    sums_LN = np.zeros((len(blocks), len(rows)))
    for first in tqdm(range(0, len(rows), batch_size), desc="Logit lens", leave=False, disable=None):
        batch = rows[first : first + batch_size]
        width = max(len(ids) for ids, _ in batch)
        padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in batch], device=model.device)
        owner_M = np.array([index for index, (_, places) in enumerate(batch) for _ in places])
        where = (torch.from_numpy(owner_M), torch.tensor([place for _, places in batch for place in places]))
        states, logits_MV = states_at(model, blocks, padded, where)
        for layer, states_MH in enumerate(states):
            lens_MV = head(norm(states_MH))
            masses_M = lens_MV.double().softmax(-1)[:, chosen].sum(-1)
            np.add.at(sums_LN[layer], first + owner_M, masses_M.cpu().numpy())
        if (lens_MV - logits_MV).abs().max() > TOLERANCE * logits_MV.abs().max():
            raise ValueError(
                f"{type(model).__name__}: its logits are not its output head after `{type(norm).__name__}`, so the "
                "logit lens does not show what its layers would predict"
            )
    return sums_LN


def states_at(
    model: PreTrainedModel, blocks: nn.ModuleList, input_ids: Tensor, where: tuple[Tensor, Tensor]
) -> tuple[list[Tensor], Tensor]:
    """What each block hands on [M, H], and the logits [M, V], at places given as (rows, columns)."""
    states: list[Tensor] = []

    def keep(block: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        states.append((output[0] if isinstance(output, tuple) else output)[where])

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        return states, model(input_ids=input_ids, use_cache=False).logits[where]
    finally:
        for handle in handles:
            handle.remove()
