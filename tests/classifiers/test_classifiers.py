"""Checkpoints in folders, and scores of files."""

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

from ifguide.classifiers import FileClassifier, SequenceClassification

TEXTS = ["the cat sat on a mat", "idiot", "", "one idiot who ate all of his old bread in an hour " * 20]


@pytest.fixture(scope="module", params=["single_label", "multi_label", "one_label"])
def checkpoint(request, tmp_path_factory):
    """A random checkpoint with the labels `fine`, `rude` and `threat`, or one."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = tiny_tokenizer(TEXTS)
    tokenizer.pad_token = tokenizer.eos_token
    labels = ["rude"] if request.param == "one_label" else ["fine", "rude", "threat"]
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "roberta", vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)},
        problem_type="multi_label_classification" if request.param == "multi_label" else None,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return request.param, folder


def test_a_checkpoint_gives_the_probabilities_of_its_labels(checkpoint):
    kind, folder = checkpoint
    categories = {"toxicity": "rude"} if kind == "one_label" else {"threat": 2, "toxicity": "rude"}
    options = dict(path=str(folder), categories=categories, max_length=32)
    if kind == "one_label":
        with pytest.raises(ValueError, match=r"^activation=None: .* 1 label\(s\).* sigmoid \(logits\) or none"):
            SequenceClassification(**options)
        options["activation"] = "sigmoid"
    scores = SequenceClassification(**options, batch_size=2).load()(TEXTS)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row, text in enumerate(TEXTS):
        if not text:
            continue
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32)).logits[0].double()
        expected = logits.softmax(-1) if kind == "single_label" else logits.sigmoid()
        assert scores["toxicity"][row] == pytest.approx(float(expected[0 if kind == "one_label" else 1]), abs=1e-5)
        assert "threat" not in scores or scores["threat"][row] == pytest.approx(float(expected[2]), abs=1e-5)
    assert list(scores) == list(categories) and all(values.shape == (4,) for values in scores.values())


def test_wrong_folders_and_labels_are_named(checkpoint, tmp_path):
    _, folder = checkpoint
    with pytest.raises(ValueError, match=r"^path=.*not a Hugging Face model folder"):
        SequenceClassification(path=str(tmp_path), categories={"toxicity": 0})
    with pytest.raises(ValueError, match=r"^categories: no `toxicity`"):
        SequenceClassification(path=str(folder), categories={"rude": 0})
    with pytest.raises(ValueError, match=r"^categories\.toxicity=angry: .* has no such label; its labels are 0="):
        SequenceClassification(path=str(folder), categories={"toxicity": "angry"})


class Scores:
    def __init__(self, found, categories=None):
        self.found = found
        self.categories = categories or {name: name for values in found.values() for name in values}

    def read(self):
        return self.found


def test_scores_of_a_file_are_looked_up_and_a_missing_one_is_no_zero():
    scores = Scores({"a": {"toxicity": 0.25, "insult": 0.5}, "b": {"toxicity": 1, "insult": 0}})
    judge = FileClassifier(scores=scores, name="service").load()
    found = judge(["b", "a", " ", "b"])
    assert found["toxicity"].tolist() == [1, 0.25, 0, 1] and found["insult"].tolist() == [0, 0.5, 0, 0]
    with pytest.raises(ValueError, match=r"service: 3 of 4 texts have no score \(2 distinct ones\), the first is 'c'"):
        judge(["c", "a", "c", "d"])
    with pytest.raises(ValueError, match=r"^scores\.categories has no `toxicity`, only insult"):
        FileClassifier(scores=Scores({"a": {"insult": 1.0}}))
    with pytest.raises(ValueError, match="no text with scores"):
        FileClassifier(scores=Scores({}, categories={"toxicity": "t"})).load()
    assert np.isfinite(judge([])["toxicity"]).all()
