"""Control tokens in a model's vocabulary."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

MULTIPLE = 64  # of rows, as new models have


@torch.no_grad()
def add_control_tokens(model: PreTrainedModel, ids: Sequence[int], *, vocabulary: int) -> None:
    """Give a model rows for control tokens, and have `generate` of transformers never write them.

    Rows that it has to spare are used; where there are none, its embeddings grow. A new token begins as the mean of all
    others, in the embedding and in the output head, so that no other one's probability changes by much. All other
    weights stay what they are, those that a new model draws from its seed too.

    Args:
        model: changed in place.
        ids: of the tokens.
        vocabulary: tokens that it was made for; ids from here on are new.
    """
    embeddings: Any = model.get_input_embeddings()
    rows, needed = len(embeddings.weight), max(ids) + 1
    if needed > rows:
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(-(-needed // MULTIPLE) * MULTIPLE, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for values in layer.parameters():
            mean = values[:vocabulary].mean(0)
            values[vocabulary:needed] = mean
            values[rows:] = mean
    if model.generation_config is not None:
        model.generation_config.suppress_tokens = list(ids)
