"""Sampled continuations of prompts: bucketed by length, prefill shared among the samples of a prompt."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from ifguide.corpus.documents import Prompt
from ifguide.corpus.tokenizers import beginning_of_text, last_tokens
from ifguide.decoding.base import Decoder, attached, frame_of
from ifguide.decoding.cached import NextLogits
from ifguide.decoding.nucleus import cached_pieces, finite_softmax
from ifguide.opening import context_length
from ifguide.processes import ALONE, Processes, joined

GENERATIONS_FILE = "generations.arrow"

# P prompts, S samples of each, R = P · S rows, L tokens, V vocabulary


@torch.no_grad()
def sample_continuations(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    decoder: Decoder,
    samples: int,
    max_new_tokens: int,
    end_of_text: int,
    rows: int,
    seed: int,
    processes: Processes = ALONE,
) -> NDArray[np.int64]:
    """Sample continuations of token prompts.

    Prompts of equal length are run together, so nothing is padded; each prompt is run through the model once and its
    cache is repeated for its samples (`NextLogits`). A row that has ended is dropped; what the others draw does not
    depend on it.

    Args:
        model: on the device that computes.
        prompts: token ids of each prompt, none empty.
        decoder: shapes the next token's distribution.
        samples: continuations per prompt.
        max_new_tokens: longest continuation.
        end_of_text: token that ends a continuation.
        rows: sequences generated at the same time.
        seed: of the sampling.
        processes: among which batches are shared; the model and the decoder are there in each of them.

    Returns:
        [prompts, samples, max_new_tokens]; after its end a continuation is filled with `end_of_text`.
    """
    model.eval()
    lengths = np.array([len(prompt) for prompt in prompts])
    result = np.full((len(prompts), samples, max_new_tokens), end_of_text, dtype=np.int64)
    per_batch = max(1, rows // samples)
    batches = [
        members[first : first + per_batch]
        for length in np.unique(lengths)
        for members in [np.flatnonzero(lengths == length)]
        for first in range(0, len(members), per_batch)
    ]
    numbers = processes.share(range(len(batches)))
    with attached(decoder, model):
        for number in tqdm(numbers, desc="Generating", leave=False, disable=processes.no_bar):
            members = batches[number]
            ids = torch.tensor([prompts[m] for m in members], device=model.device)
            generator = torch.Generator(model.device).manual_seed(seed * 1_000_003 + number)
            new = _continuations(model, ids, decoder, samples, max_new_tokens, end_of_text, generator)
            result[members] = new.view(len(members), samples, -1).cpu().numpy()
    processes.fill(joined([batches[number] for number in numbers]), result)
    return result


def _continuations(
    model: PreTrainedModel,
    prompts_PL: Tensor,
    decoder: Decoder,
    samples: int,
    max_new_tokens: int,
    end_of_text: int,
    generator: torch.Generator,
) -> Tensor:
    """Of prompts of one length: [R, max_new_tokens]."""
    read, steps = NextLogits(model, prompts_PL, samples), decoder.start(prompts_PL, samples)
    ids = prompts_PL.repeat_interleave(samples, 0)
    new = torch.full((len(ids), max_new_tokens), end_of_text, device=model.device)
    going = torch.arange(len(ids), device=model.device)  # the rows that have not ended
    for step in range(max_new_tokens):
        probabilities = finite_softmax(steps(ids, read(ids).float()))
        # one number for every row, so that none depends on whether others have ended
        uniform = torch.rand(len(new), 1, generator=generator, device=model.device, dtype=torch.float64)
        token = draw(probabilities, uniform[going])
        new[going, step] = token[:, 0]
        alive = token[:, 0] != end_of_text
        if step == max_new_tokens - 1 or not alive.any():
            break
        if not alive.all():
            going, ids, token = going[alive], ids[alive], token[alive]
            read.keep(alive)
            steps.keep(alive)
        ids = torch.cat([ids, token], dim=1)
    return new


def continue_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Prompt],
    *,
    decoder: Decoder,
    samples: int,
    max_new_tokens: int,
    rows: int,
    seed: int,
    processes: Processes = ALONE,
) -> tuple[list[list[int]], NDArray[np.int64]]:
    """Token ids of prompts, as many as leave room for what is new, and of their continuations.

    Args:
        model: on the device that computes.
        tokenizer: of the model.
        prompts: what is continued.
        decoder, samples, max_new_tokens, rows, seed, processes: as in `sample_continuations`, as is the second value.
    """
    room = context_length(model.config) - max_new_tokens
    encoded = encode_prompts(prompts, tokenizer, room, model.config, *frame_of(decoder))
    return encoded, sample_continuations(
        model,
        encoded,
        decoder=decoder,
        samples=samples,
        max_new_tokens=max_new_tokens,
        end_of_text=tokenizer.eos_token_id,
        rows=rows,
        seed=seed,
        processes=processes,
    )


def draw(probabilities_RV: Tensor, uniform_R1: Tensor) -> Tensor:
    """The token at which the sum of a row's probabilities passes a number in [0, 1): [R, 1]."""
    chosen, first = [], 0
    for piece in cached_pieces(probabilities_RV):
        sums = piece.cumsum(-1, dtype=torch.float64)
        total = sums[:, -1:]
        place = torch.minimum(
            uniform_R1[first : first + len(piece)] * total, total.nextafter(torch.zeros_like(total))
        )  # below the total, so that what has no probability is never drawn
        chosen.append(torch.searchsorted(sums, place, right=True))
        first += len(piece)
    return torch.cat(chosen)


def encode_prompts(
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    config: PreTrainedConfig | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
) -> list[list[int]]:
    """Token ids of each prompt behind what a text begins after for the model of this configuration
    (`beginning_of_text`), between a decoder's prefix and suffix; a longer one keeps these and its last tokens,
    `max_length` in all."""
    first = beginning_of_text(tokenizer, config)
    encodings = tokenizer.backend_tokenizer.encode_batch([p.text for p in prompts], add_special_tokens=False)
    room = max_length - len(prefix) - len(suffix)
    return [[first, *prefix, *last_tokens(first, encoding.ids, room)[1:], *suffix] for encoding in encodings]


def decode_continuations(
    prompts: Sequence[Sequence[int]], tokens_PST: NDArray[np.int64], tokenizer: PreTrainedTokenizerFast
) -> list[list[str]]:
    """Texts of [prompts, samples, tokens], as they stand behind their prompts; special tokens are left out.

    Each is decoded together with its prompt: some tokenizers drop the blank that what they decode begins with.
    """
    decode = tokenizer.backend_tokenizer.decode_batch  # the bare one: it tidies no spaces
    texts = []
    for prompt, tokens_ST in zip(prompts, tokens_PST, strict=True):
        (before,) = decode([list(prompt)], skip_special_tokens=True)
        both = decode([[*prompt, *tokens] for tokens in tokens_ST.tolist()], skip_special_tokens=True)
        texts.append([text[len(before) :] for text in both])
    return texts


def save_generations(path: Path, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> None:
    """Write one row per prompt: record, subset, prompt, continuations."""
    table = pa.table(
        {
            "record": [prompt.record for prompt in prompts],
            "subset": [prompt.subset for prompt in prompts],
            "prompt": [prompt.text for prompt in prompts],
            "continuations": [list(row) for row in texts],
        }
    )
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def numbered(prompts: Sequence[str]) -> list[tuple[str, int]]:
    """Each prompt with how many like it came before: what pairs it with the same one of another run, whose files may be
    spelled otherwise."""
    before: Counter[str] = Counter()
    found = []
    for prompt in prompts:
        found.append((prompt, before[prompt]))
        before[prompt] += 1
    return found


def load_generations(path: Path) -> Dataset:
    """What `save_generations` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return Dataset.from_file(str(path))
    except (ValueError, KeyError) as error:  # Arrow's own are of these
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())})") from None
