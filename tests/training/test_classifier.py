import numpy as np
import pytest
import torch

from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import hash_fraction
from ifguide.training.classifier import TrainedClassifier, class_weights


def texts(count=300):
    rng = np.random.default_rng(0)
    words = np.array("garden bread letter cat mat tap sun rain".split())
    rows = []
    for index in range(count):
        body = " ".join(rng.choice(words, 6)) + f" {index}"
        rows.append(LabelledText(body.replace("cat", "moron") if index % 3 == 0 else body.replace("cat", "dog"), False))
    return [LabelledText(row.text, "moron" in row.text) for row in rows]


def test_training_finds_the_word_that_matters_and_is_repeatable(tmp_path):
    recipe = TrainedClassifier(texts={"a": texts()}, buckets=4096, width=4, validation=0.2, epochs=6, batch_size=16)
    before = torch.random.get_rng_state()
    facts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        facts.append(recipe.fit(tmp_path / name))
    assert facts[0] == facts[1] and (torch.random.get_rng_state() == before).all()
    assert facts[0]["roc_auc"] > 0.95 and facts[0]["kept_out"] == sum(hash_fraction(row.text) < 0.2 for row in texts())
    judge = recipe.load(tmp_path / "one")
    scores = judge(["tap garden moron bread letter sun", "tap garden dog bread letter sun"])["toxicity"]
    assert scores[0] > 0.5 > scores[1] and judge.name == recipe.name == "trained on a"
    assert (recipe.load(tmp_path / "two")(["a moron"])["toxicity"] == judge(["a moron"])["toxicity"]).all()


def test_both_classes_of_a_source_weigh_the_same():
    sources, toxic = np.array(["a"] * 5 + ["b"] * 3), np.array([1, 0, 0, 0, 0, 1, 1, 0], bool)
    weights = class_weights(sources, toxic)
    for name in "ab":
        here = sources == name
        assert weights[here].mean() == pytest.approx(1)
        assert weights[here & toxic].sum() == pytest.approx(weights[here & ~toxic].sum())
    with pytest.raises(ValueError, match=r"texts\.b: no text is negative"):
        class_weights(sources, np.array([1, 0, 0, 0, 0, 1, 1, 1], bool))


def test_too_few_texts_to_judge_it_are_said_before_any_training(tmp_path, monkeypatch):
    recipe = TrainedClassifier(texts={"a": texts(4)}, buckets=64, width=2, validation=0.01)
    monkeypatch.setattr(TrainedClassifier, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"^texts\.a: the \d texts kept out to judge it .* are of one class"):
        recipe.fit(tmp_path)


def test_settings_out_of_range_are_named():
    for options, message in (
        ({"texts": {}}, "nothing to train on"),
        ({"epochs": 0}, r"^epochs=0"),
        ({"validation": 1.0}, r"^validation=1"),
        ({"characters": [], "words": []}, "lengths of n-grams"),
        ({"words": [0]}, "lengths of n-grams"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainedClassifier(**{"texts": {"a": texts(4)}, **options})
