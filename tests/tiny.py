"""Tiny models and corpora, built on the spot; nothing is downloaded."""

import re

import numpy as np
import torch
from shapes import ARCHITECTURES
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ifguide.corpus.documents import Document
from ifguide.corpus.tokenizers import make_tokenizer

VOCABULARY = 60


def tiny_model(architecture: str = "gpt_neox", *, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """A model of a few thousand parameters whose biases and norms are not at their initial values."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture, vocab_size=VOCABULARY, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
        **ARCHITECTURES[architecture],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def loss_and_gradients(module, batch) -> dict[str, torch.Tensor]:
    """Of a module of training, by the name of its weight."""
    loss = module.loss(batch)
    loss.backward()
    return {"loss": loss.detach(), **{name: value.grad for name, value in module.named_parameters()}}


WORDS = "the cat sat on a mat and saw one idiot who ate all of his old bread in an hour".split()


def tiny_documents(count: int = 60, seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    documents = []
    for record in range(count):
        words = list(rng.choice(WORDS, size=int(rng.integers(5, 25))))
        text = f"{record} " + " ".join(words)
        spans = tuple(match.span() for match in re.finditer("idiot", text))
        documents.append(Document(text, "tiny", record, "toxic" if spans else "benign", spans))
    return documents


def tiny_tokenizer(texts):
    return make_tokenizer(texts, vocabulary=300)
