"""`stage=export`: what it is made of, and how it is asked for."""

import numpy as np
import pytest
from datasets import load_from_disk
from rows import Row

from ifguide.corpus.masks import TokenMask
from ifguide.influence.store import create_scores
from ifguide.stages.data import Data
from ifguide.stages.export import Export
from ifguide.stages.listing import plan_table
from ifguide.stages.stage import Inputs
from ifguide.workspace import Artifact


def test_it_is_built_from_a_corpus_scores_and_a_mask(corpus, tmp_path):
    split = corpus.split("train")
    mask = TokenMask.pack(np.random.default_rng(0).random(split.shape) < 0.1)
    mask.save(tmp_path / "mask.npy")
    with create_scores(tmp_path, (2, *split.shape)) as scores:
        scores[0], scores[1] = 1, 2
    stage = Data(corpus=None)  # of no meaning here: it is built from what lies there
    export = Export(data=stage, mask=stage, scores=stage, behaviours=["rude", "sly"], unit="block")
    folders = {"data": corpus.path, "mask": tmp_path, "scores": tmp_path}
    (tmp_path / "out").mkdir()
    facts = export.build(tmp_path / "out", Inputs({name: Artifact(name, "", path) for name, path in folders.items()}))
    dataset = load_from_disk(str(tmp_path / "out" / "dataset"))
    assert facts["rows"] == len(dataset) == len(split) and facts["selected"] == mask.count() and facts["documents"]
    assert set(dataset[0]["scores"]["rude"]) == {1.0} and set(dataset[0]["scores"]["sly"]) == {2.0}


@pytest.mark.slow
def test_the_setting_is_named_as_it_is_typed(tmp_path):
    pytest.importorskip("profanity_check")
    row = Row(tmp_path, "stage=export", "export.unit=document")
    lines = plan_table(row.plan, row.workspace, {"export.unit": "document"}, {"export.unit": "block"}).splitlines()
    assert lines[-2].startswith("export") and lines[-1].strip() == "export.unit=document"
    with pytest.raises(ValueError, match=r"^export\.unit=page; known: block, document"):
        Row(tmp_path, "stage=export", "export.unit=page").check()


@pytest.mark.slow
def test_a_mask_of_another_run_is_exported_with_the_scores_that_it_was_made_from(begun, tmp_path):
    pytest.importorskip("profanity_check")
    place = begun()
    folder = Row(place, "stage=mask").run().path("mask")
    row = Row(place, "stage=export", f"paths.mask={folder}", "scorer=finite_difference")
    assert {"direction.toxicity", "proxy", "pooled"}.isdisjoint(row.plan.roles)
    assert (row.run().path("export") / "documents.jsonl").stat().st_size
    (scores,) = (place / "workspace").glob("pooled-*")
    scores.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"the scores that it was made from .* are not beside it"):
        Row(place, "stage=export", f"paths.mask={folder}")
