"""Fixtures of all tests.

What takes long to import is imported where it is used: the process that shares tests out among workers uses nothing.
"""

import gc
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from shapes import ARCHITECTURES

gc.disable()  # until all is imported: what is imported stays, and would be looked through again and again

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a hub that cannot be reached is asked again and again

if "PYTEST_XDIST_WORKER" in os.environ:  # there are as many workers as cores: their threads would only wait in turn
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests run

settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None)


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws without a generator of its own does not depend on the tests before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    from tiny import tiny_model

    return tiny_model(request.param)


@pytest.fixture
def blocks():
    import torch
    from tiny import VOCABULARY

    return torch.randint(VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    from tiny import tiny_documents, tiny_tokenizer

    from ifguide.corpus.blocks import Corpus
    from ifguide.corpus.build import build_corpus

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
