"""Labelled texts: what reward models and experts learn from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from ifguide.corpus.blocks import DOCUMENT_ROW, Split
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.sources import find_files, get_field, read_records


def local_labelled(
    *,
    files: str | Sequence[str],
    field: str = "text",
    label: str = "label",
    positive: Sequence[Any] | None = ("toxic", 1, True),
    limit: int | None = None,
) -> list[LabelledText]:
    """Labelled texts from records of jsonl or parquet files; records without text are left out.

    Args:
        files: files or globs.
        field, label: names of the fields.
        positive: values of the label that mean toxic, every other one does not; None: the label is itself a toxicity
            in [0, 1].
        limit: at most this many texts.

    Raises:
        ValueError: a label that is no number in [0, 1] where one is expected.
    """
    texts: list[LabelledText] = []
    for file in find_files(files):
        for place, values in read_records(file):
            text, value = get_field(values, field, place), get_field(values, label, place)
            if not isinstance(text, str) or not text.strip():
                continue
            if len(texts) == limit:
                return texts
            texts.append(LabelledText(text, float(value in positive) if positive else _toxicity(value, label, place)))
    return texts


def _toxicity(value: Any, label: str, place: str) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{place}: {label}={value!r} is no toxicity in [0, 1]; name the toxic values in `positive`")
    return float(value)


def check_labelled(texts: Sequence[LabelledText]) -> None:
    """Raise ValueError unless there are texts on both sides of 0.5."""
    toxic = sum(toxicity >= 0.5 for _, toxicity in texts)
    if toxic in (0, len(texts)):
        raise ValueError(
            f"labelled: {toxic} of {len(texts)} texts are toxic; both kinds are needed, check `label` and `positive`"
        )


def encode_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_length: int | None = None
) -> list[NDArray[np.int64]]:
    """Token ids of each text between end-of-text tokens, the first `max_length` of them."""
    end = tokenizer.eos_token_id
    encodings = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [np.array([end, *encoding.ids, end][:max_length], dtype=np.int64) for encoding in encodings]


def pack_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, block_length: int) -> Split:
    """Texts, each followed by the end-of-text token, as blocks in memory; an incomplete last block is left out.

    Raises:
        ValueError: less than one block of text.
    """
    pieces = [ids[1:] for ids in encode_texts(texts, tokenizer)]
    flat = np.concatenate([np.zeros(0, np.int64), *pieces]).astype(np.int32)
    count = len(flat) // block_length
    if count == 0:
        raise ValueError(f"{len(texts)} texts have {len(flat)} tokens, less than one block of {block_length}")
    values = pa.FixedSizeListArray.from_arrays(pa.array(flat[: count * block_length]), block_length)
    lengths = np.array([len(piece) for piece in pieces])
    rows = np.zeros(len(pieces), dtype=DOCUMENT_ROW)
    rows["start"], rows["record"], rows["label"] = np.cumsum(lengths) - lengths, np.arange(len(pieces)), -1
    return Split(Dataset(pa.table({"input_ids": values})), rows[rows["start"] < count * block_length], None)
