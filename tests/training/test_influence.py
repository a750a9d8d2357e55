import copy
import json
import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from test_training import CPU, Recorder, model_for, optimization

from ifguide.corpus.masks import TokenMask, jaccard
from ifguide.corpus.queries import Query, encode_queries
from ifguide.corpus.tokenizers import token_texts
from ifguide.influence.chain import InfluenceSettings
from ifguide.influence.curvature import Curvature
from ifguide.influence.direction import query_gradient
from ifguide.influence.pooling import TypePooling
from ifguide.influence.scorers import JVP
from ifguide.influence.scorers.jvp import reference_scores
from ifguide.influence.selection import Algorithm1
from ifguide.influence.store import open_scores
from ifguide.objectives import LanguageModeling, SuppressedLanguageModeling
from ifguide.statistics import spearman
from ifguide.training.context import TrainingContext
from ifguide.training.fit import train
from ifguide.training.influence import InfluenceScoring

QUERIES = [
    Query(f"the cat {i}", " ate one idiot" if toxic else " ate old bread", toxic, f"{i}")
    for i, toxic in enumerate([True, False] * 3)
]


def influence(**options):
    defaults = dict(
        behaviours={"toxicity": QUERIES}, curvature=Curvature("identity"), scorer=JVP(), every_steps=3,
        selection=Algorithm1(quantile=0.9, limit=0.1), influence=InfluenceSettings(batch_size=4, shard_blocks=5),
    )  # fmt: skip
    return InfluenceScoring(**(defaults | options))


def run(corpus, directory, callback, objective=None, mask=None, epochs=0.5):
    model = model_for(corpus)
    train(
        model, objective or LanguageModeling(), optimization(epochs=epochs),
        TrainingContext(CPU, directory, callbacks=[] if callback is None else [callback]),
        blocks=corpus.split("train"), mask=mask, validation=None, seed=0, tokenizer=corpus.tokenizer,
    )  # fmt: skip
    return model


def no_mask(corpus):
    return TokenMask.pack(np.zeros(corpus.split("train").shape, bool))


def points(directory):
    return {int(path.name.split("=")[1]): path for path in (directory / "influence").glob("step=*")}


def test_points_and_the_end_are_scored_with_the_model_as_it_is(corpus, tmp_path):
    model = run(corpus, tmp_path, influence())
    found = points(tmp_path)
    last = max(found)
    assert set(found) == {*range(3, last, 3), last} and len(found) >= 2
    split = corpus.split("train")
    model = model.eval()
    direction = query_gradient(
        copy.deepcopy(model), encode_queries(QUERIES, corpus.tokenizer, split.block_length), batch_size=4
    )
    expected = reference_scores(model, direction, torch.from_numpy(split.tokens(slice(0, len(split)))))
    scores = open_scores(found[last])[0]
    assert np.allclose(scores, expected, rtol=1e-3, atol=1e-4 * scores.std())
    summary = json.loads((tmp_path / "influence" / "summary.json").read_text())
    assert [point["step"] for point in summary] == sorted(found)
    assert summary[-1]["spearman"] == pytest.approx(1) and summary[-1]["mask_jaccard"] == 1
    assert summary[0]["spearman"] == pytest.approx(spearman(open_scores(found[3])[0][:, 1:], scores[:, 1:]))
    assert summary[0]["spearman"] < 0.9999


def test_a_point_says_what_it_found(corpus, tmp_path):
    run(corpus, tmp_path, influence())
    folder = points(tmp_path)[3]
    summary = json.loads((folder / "summary.json").read_text())
    scores, mask = open_scores(folder)[0], TokenMask.open(folder / "mask.npy", corpus.split("train").block_length)
    assert summary["log"]["influence/masked_tokens"] == mask.count() == summary["selection"]["toxicity"]["selected"]
    assert summary["log"]["influence/toxicity/q0.5"] == pytest.approx(np.median(scores[:, 1:]))
    best = summary["top_documents"]["toxicity"][0]
    split = corpus.split("train")
    sums = {}
    for block, offset in np.argwhere(mask[:]):
        (owner,) = split.documents_of(np.array([block * split.block_length + offset]))
        sums[owner] = sums.get(owner, 0) + scores[block, offset]
    assert best["selected_scores"] == pytest.approx(max(sums.values()), rel=1e-5)
    assert best["record"] == split.documents[max(sums, key=sums.get)]["record"]


def test_training_does_not_notice(corpus, tmp_path):
    models = [run(corpus, tmp_path / name, callback) for name, callback in (("with", influence()), ("without", None))]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)


def test_a_sample_of_blocks(corpus, tmp_path):
    run(corpus, tmp_path, influence(blocks=7))
    assert {open_scores(path).shape for path in points(tmp_path).values()} == {
        (1, 7, corpus.split("train").block_length)
    }


def test_the_last_point_is_found_before_the_last_checkpoint(corpus, tmp_path):
    class Ends(pl.Callback):
        def on_train_end(self, trainer, module):
            raise RuntimeError("killed")

    callback = influence()
    callback.on_train_end = Ends().on_train_end
    with pytest.raises(RuntimeError, match="killed"):
        run(corpus, tmp_path, callback)
    assert json.loads((tmp_path / "influence" / "summary.json").read_text())[-1]["mask_jaccard"] == 1


def test_a_direction_that_is_there_is_not_found_again(corpus, tmp_path):
    both = {"a": QUERIES, "b": QUERIES[::-1]}
    run(corpus, tmp_path / "whole", influence(behaviours=both))
    folder = points(tmp_path / "whole")[3]
    again = tmp_path / "again" / "influence" / "step=3"
    shutil.copytree(folder / "direction_of_a", again / "direction_of_a")  # killed after the first of two
    run(corpus, tmp_path / "again", influence(behaviours=both))
    assert (again / "scores.npy").read_bytes() == (folder / "scores.npy").read_bytes()


def test_pooled_scores_are_selected_from(corpus, tmp_path):
    run(corpus, tmp_path, influence(pooling=TypePooling()))
    split = corpus.split("train")
    folder = points(tmp_path)[3]
    table, _ = TypePooling().fit(open_scores(folder), split.tokens, token_texts(corpus.tokenizer))
    pooled = table.scores(torch.from_numpy(split.tokens(slice(0, len(split)))))[0].numpy()
    mask = TokenMask.open(folder / "mask.npy", split.block_length)
    assert (mask[:] == Algorithm1(quantile=0.9, limit=0.1)(pooled).mask[:]).all()


def test_the_mask_is_handed_over_and_survives_an_interruption(corpus, tmp_path):
    def trained(name, objective):
        return run(corpus, tmp_path / name, influence(hand_over=True), objective, no_mask(corpus))

    suppress = SuppressedLanguageModeling(penalty=1.0)
    whole = trained("whole", suppress)
    plain = run(corpus, tmp_path / "plain", None, suppress, no_mask(corpus))
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), plain.parameters(), strict=True))

    class Dies(SuppressedLanguageModeling):
        calls = 0

        def forward(self, *batch):
            Dies.calls += 1
            if Dies.calls == 10:  # in step 5, after the point at step 3 and its checkpoint
                raise RuntimeError("killed")
            return super().forward(*batch)

    with pytest.raises(RuntimeError, match="killed"):
        trained("broken", Dies(penalty=1.0))
    resumed = trained("broken", suppress)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    for step, folder in points(tmp_path / "whole").items():
        again = points(tmp_path / "broken")[step]
        assert (folder / "scores.npy").read_bytes() == (again / "scores.npy").read_bytes()


def test_a_mask_can_only_be_handed_to_an_objective_with_one(corpus, tmp_path):
    with pytest.raises(ValueError, match="needs an objective with a mask"):
        run(corpus, tmp_path, influence(hand_over=True), Recorder())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every_steps": None}, "one of"),
        ({"every_epochs": 0.5}, "one of both"),
        ({"every_steps": -1}, "above 0"),
        ({"blocks": 0}, "^blocks=0"),
        ({"blocks": 3, "hand_over": True}, "all blocks"),
        ({"blocks": 3, "selection": Algorithm1(unit="document")}, "all blocks"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        influence(**options)


def test_overlap_of_masks():
    left, right = (TokenMask.pack(np.array([row], bool)) for row in ([1, 1, 0, 0], [0, 1, 1, 0]))
    assert jaccard(left, right) == pytest.approx(1 / 3) and jaccard(left & TokenMask.pack(~left[:]), left) == 0
    empty = TokenMask.pack(np.zeros((1, 4), bool))
    assert jaccard(empty, empty) == 1
