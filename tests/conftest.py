"""Tiny models and corpora, built on the spot; nothing is downloaded."""
# ruff: noqa: E402

import gc
import os
import re
import shutil
from pathlib import Path

gc.disable()  # until all is imported: what is imported stays, and would be looked through again and again

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import build_corpus
from ifguide.corpus.documents import Document
from ifguide.corpus.tokenizers import make_tokenizer

if "PYTEST_XDIST_WORKER" in os.environ:  # there are as many workers as cores: their threads would only wait in turn
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests run

settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None)

VOCABULARY = 60
ARCHITECTURES = {
    "gpt_neox": dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32),
    "gpt2": dict(n_embd=16, n_layer=2, n_head=2, n_positions=64),  # Conv1D layers, tied embeddings
    "llama": dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        tie_word_embeddings=True,
    ),  # no biases, grouped queries
    "qwen2": dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32
    ),
}  # fmt: skip


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


@pytest.fixture(params=ARCHITECTURES)
def model(request) -> PreTrainedModel:
    return tiny_model(request.param)


@pytest.fixture
def blocks() -> torch.Tensor:
    return torch.randint(VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))


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


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    directory = tmp_path_factory.mktemp("corpus")
    build_corpus(
        directory, sources={"tiny": tiny_documents()}, tokenizer=tiny_tokenizer, block_length=16,
        validation=0.1, test=0.1,
    )  # fmt: skip
    return Corpus(directory)


@pytest.fixture(scope="session")
def begun(tmp_path_factory):
    """Makes folders whose workspace holds the smoke configuration up to its mask, the uncensored model among it."""
    from rows import Row

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "begun"  # of all workers
    workspace = Row(folder, "stage=mask").run().workspace.root

    def make() -> Path:
        place = tmp_path_factory.mktemp("begun")
        shutil.copytree(workspace, place / "workspace", ignore=shutil.ignore_patterns(".*"))
        return place

    return make


@pytest.fixture(scope="session")
def datasets_folder() -> Path:
    folder = os.environ.get("IFGUIDE_DATASETS")
    if not folder:
        pytest.skip("IFGUIDE_DATASETS is not set: the external data sets are not here")
    return Path(folder)


def pytest_collection_finish() -> None:
    """What is imported stays: kronfluence collects garbage after each of its steps and would look through it all."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for the external data sets is marked `data`; files of slow tests come first: none is the last."""
    for item in items:
        if "datasets_folder" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
