"""Masks without influence: what is planned for them, and what comes of it."""

import numpy as np
import pytest
from composing import CONF
from hydra import compose, initialize_config_dir
from rows import Row

from ifguide.influence.store import open_scores
from ifguide.stages import rules

ORIGINS = {"jvp": "scores", "classifier": "judged_tokens", "probe": "scores"}


def test_the_grid_crosses_masks_with_what_is_done_with_them(tmp_path):
    """Of the experiment's rows, one scorer with every method and one method with every scorer."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=["+experiment=mask_grid"], return_hydra_config=True)
    swept = {key: values.split(",") for key, values in cfg.hydra.sweeper.params.items()}
    assert swept["method"] == ["none", "token_filter", "token_removal", "ifguide", "unlikelihood"]
    assert set(swept["scorer"]) == set(ORIGINS)

    def roles(method, scorer):
        row = Row(tmp_path, "+experiment=mask_grid", f"method={method}", f"scorer={scorer}", "stage=model")
        return row.plan.roles

    of_one = [roles(method, "classifier") for method in swept["method"]]
    assert "mask" not in of_one[0] and len({made["model"].fingerprint for made in of_one}) == len(of_one)
    assert len({made["mask"].fingerprint for made in of_one[1:]}) == 1
    by_scorer = {scorer: roles("ifguide", scorer) for scorer in swept["scorer"]}
    assert {scorer: made["scores"].name for scorer, made in by_scorer.items()} == ORIGINS
    assert len({made["mask"].fingerprint for made in by_scorer.values()}) == len(ORIGINS)
    rules_of_selection = {made["mask"].selection for made in by_scorer.values()}
    assert len(rules_of_selection) == 1, "an equal number of tokens, by one rule"


def test_no_influence_is_made_for_them(tmp_path):
    for method, roles in (("classifier_mask", {"classifier.scorer"}), ("probe_mask", {"token_probe"})):
        plan = Row(tmp_path, f"method={method}", "stage=model").check().plan
        assert set(plan.roles) == {"data", "scores", "mask", "model", *roles}


def test_pooling_is_chosen_beside_them(tmp_path):
    assert "pooled" not in Row(tmp_path, "scorer=classifier", "stage=mask").plan.roles
    assert "pooled" in Row(tmp_path, "scorer=classifier", "pooling=word", "stage=mask").plan.roles
    assert "pooled" in Row(tmp_path, "stage=mask").plan.roles


def test_a_row_that_is_judged_by_the_classifier_of_its_mask_is_marked(tmp_path):
    row = Row(tmp_path, "method=classifier_mask", "classifier@scorer.classifier=profanity_check")
    (note,) = row.plan.row["notes"]
    assert note.startswith("Made with a classifier that evaluates it (")
    judged = Row(tmp_path, "method=classifier_mask", "classifier@classifiers.toxicity=labelled")
    assert judged.plan.row["notes"][0].startswith("Made with a classifier that evaluates it (trained on labelled)")


def test_prompts_are_not_among_the_texts_that_a_probe_learns_from(tmp_path):
    row = Row(tmp_path, "method=probe_mask")
    prompt = row.plan.roles["generations.toxicity"].task.prompts[0].text
    text = row.plan.roles["token_probe"].labelled[0]
    row.plan.roles["token_probe"].labelled.append(type(text)(prompt + " and more", 1.0))
    with pytest.raises(ValueError, match="also in the texts of `labelled`"):
        rules.check_plan(row.plan)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["student=words"], r"^student: it learns exact scores of influence, WindowClassifier has none"),
        (["+queries@behaviours.other=sample"], r"^scorer: WindowClassifier judges one behaviour, and there are 2"),
        (["filter=influence"], r"^filter\.contrast=false: WindowClassifier has no influence"),
        (["callbacks=influence"], r"^callbacks\.influence.*scorer: WindowClassifier is no influence"),
        (["scorer.window=2"], r"^scorer\.window=2"),
        (["scorer.pooling=min"], r"^scorer\.pooling=min"),
    ],
)
def test_what_only_influence_can_do_is_refused(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        Row(tmp_path, "scorer=classifier", "stage=model", *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["classifier", "probe"])
def test_masks_of_classifiers_find_what_was_annotated(tmp_path_factory, scorer):
    folder = tmp_path_factory.getbasetemp() / "classified"
    row = Row(folder, f"scorer={scorer}", "selection=top", "labelled.size=600", "stage=mask").run()
    scores, annotated = open_scores(row.path("scores"))[0], row.corpus.split("train").annotation[:]
    assert scores.shape == annotated.shape and (scores[:, 0] == 0).all() and 0 <= scores.min() < scores.max() <= 1
    mask = row.mask[:]
    assert mask.sum() == int(0.01 * mask.size) and not mask[:, 0].any()
    assert annotated[mask].mean() > 5 * annotated.mean() > 0
    assert row.facts("scores")["behaviours"] == ["toxicity"] and np.isfinite(scores).all()
