"""Classifiers that come ready are tried before anything is trained, and never read as what they are not."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rows import Row
from tiny import tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from ifguide.classifiers import DetoxifyClassifier, FileClassifier, SequenceClassification
from ifguide.classifiers.base import TRIED, what_is_wrong
from ifguide.corpus.labelled import TextScores
from ifguide.stages.classifiers import FittedClassifier
from ifguide.workspace import describe

TEXTS = ["the cat sat on a mat", "idiot", "", "one idiot who ate all of his old bread"]
MULTI_LABEL = "multi_label_classification"


def save(folder, *, constant=None, architecture="bert", pads=True, seed=0, **settings):
    """A checkpoint with one label; with a constant, that is its output for every text."""
    tokenizer = tiny_tokenizer(TEXTS * 5)
    if architecture == "roberta":
        tokenizer.pad_token = tokenizer.eos_token
    elif pads:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    shape = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    if architecture == "gpt2":
        shape = dict(n_embd=8, n_layer=1, n_head=1)
    context = {"n_positions" if architecture == "gpt2" else "max_position_embeddings": 64}
    settings = {"num_labels": 1, "problem_type": MULTI_LABEL, "pad_token_id": tokenizer.pad_token_id} | settings
    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, vocab_size=320, **shape, **context, **settings)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if constant is not None:
            head = model.classifier
            head.weight.zero_()
            head.bias.fill_(constant)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return dict(path=str(folder), categories={"toxicity": 0}, max_length=60)


def test_a_regression_is_taken_by_name_only_and_never_through_a_sigmoid(tmp_path):
    options = save(tmp_path, constant=0.02, problem_type="regression")
    with pytest.raises(ValueError, match=r"^activation=None: .* problem_type=regression .* them such: none$"):
        SequenceClassification(**options)
    for activation in ("sigmoid", "softmax"):
        with pytest.raises(ValueError, match=rf"^activation={activation}: .* is a regression"):
            SequenceClassification(**options, activation=activation)
    with pytest.raises(ValueError, match=r"^activation=tanh; known: softmax, sigmoid, none, or null"):
        SequenceClassification(**options, activation="tanh")
    settings = SequenceClassification(**options, activation="none")
    assert settings.fit(tmp_path) == {}
    assert settings.load()(TEXTS)["toxicity"] == pytest.approx([0.02] * 4)


@pytest.mark.parametrize("constant, found", [(-0.1, 0), (1.2, 1), (3.0, None)])
def test_outputs_that_are_taken_as_they_are_are_probabilities(tmp_path, constant, found):
    settings = SequenceClassification(**save(tmp_path, constant=constant, problem_type="regression"), activation="none")
    if found is None:
        with pytest.raises(ValueError, match=r"^path=.*these are no probabilities"):
            settings.fit(tmp_path)
    else:
        assert settings.load()(["a"])["toxicity"].tolist() == [found]


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_text_is_judged_alike_alone_and_among_others_whatever_side_was_padded(tmp_path, architecture):
    options = save(tmp_path, architecture=architecture)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path)
    settings = SequenceClassification(**options)
    assert settings.fit(tmp_path) == {}
    judge = settings.load()
    alone = [float(judge([text])["toxicity"][0]) for text in TEXTS]
    assert judge(TEXTS)["toxicity"] == pytest.approx(alone, abs=1e-6) and len(set(alone)) == 4


def test_a_checkpoint_that_reads_fewer_tokens_than_asked_is_refused(tmp_path):
    options = save(tmp_path / "bert") | {"max_length": 65}
    with pytest.raises(ValueError, match=r"^max_length=65: .*bert reads 64 tokens at most$"):
        SequenceClassification(**options)
    roberta = save(tmp_path / "roberta", architecture="roberta") | {"max_length": 64}  # a place is for padding
    with pytest.raises(ValueError, match=r"^path=.*roberta: the classifier fails on .* long text"):
        SequenceClassification(**roberta).fit(tmp_path)


def test_without_a_padding_token_texts_are_read_one_by_one(tmp_path):
    options = save(tmp_path, architecture="gpt2", pads=False, pad_token_id=None)
    settings = SequenceClassification(**options, batch_size=3)
    assert settings.fit(tmp_path) == {}
    found = settings.load()(TEXTS)["toxicity"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text, value in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(text or tokenizer.eos_token, return_tensors="pt")).logits
        assert value == pytest.approx(float(logits.sigmoid()), abs=1e-6)


def test_a_padding_token_that_only_the_tokenizer_knows_is_told_to_the_model(tmp_path):
    settings = SequenceClassification(**save(tmp_path, architecture="gpt2", pad_token_id=None), batch_size=4)
    assert settings.fit(tmp_path) == {}
    judge = settings.load()
    assert judge(TEXTS)["toxicity"] == pytest.approx([float(judge([text])["toxicity"][0]) for text in TEXTS], abs=1e-6)


def test_padding_that_counts_is_found(tmp_path):
    wrong = save(tmp_path, architecture="gpt2", pad_token_id=5)  # another token than the tokenizer pads with
    with pytest.raises(ValueError, match=r"^path=.*alone and .* together: its padding tokens count"):
        SequenceClassification(**wrong).fit(tmp_path)


def test_a_language_model_is_no_classifier(tmp_path):
    options = save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    model.bert.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.problem_type = MULTI_LABEL
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^path=.*: there are no weights of classifier\.bias; it is no classifier"):
        SequenceClassification(**options).fit(tmp_path)


@pytest.mark.parametrize("values", [[0.5], [0.5, np.nan, 0.5], [0.5, 1.5, 0.5]])
def test_what_is_no_probability_is_found(values):
    found = what_is_wrong(lambda texts: {"toxicity": np.array(values[: len(texts)])})
    assert "not three probabilities" in found
    assert what_is_wrong(lambda texts: {"toxicity": np.full(len(texts), 0.5)}) is None


def test_classifiers_in_folders_of_one_name_are_told_apart(tmp_path, monkeypatch):
    for name, constant in (("first", 3.0), ("second", -3.0)):
        save(tmp_path / name / "checkpoint-500", constant=constant)
    monkeypatch.chdir(tmp_path)
    first, second = (
        SequenceClassification(path=f"{name}/checkpoint-500", categories={"toxicity": 0}, max_length=60)
        for name in ("first", "second")
    )
    assert (first.name, second.name) == ("first/checkpoint-500", "second/checkpoint-500")
    assert describe(first) != describe(second)
    stages = [FittedClassifier(classifier=one) for one in (first, second)]
    assert stages[0].fingerprint != stages[1].fingerprint
    monkeypatch.chdir(tmp_path / "first")
    same = SequenceClassification(path="checkpoint-500", categories={"toxicity": 0}, max_length=60)
    assert same.name == "first/checkpoint-500"
    assert FittedClassifier(classifier=same).fingerprint == stages[0].fingerprint


def filtered(folder, filtering, evaluating):
    given = []
    for place, path in (("filter.classifier", filtering), ("classifiers.toxicity", evaluating)):
        given += [f"classifier@{place}=sequence_classification", f"{place}.path={path}"]
        given += [f"{place}.categories={{toxicity: 0}}", f"{place}.max_length=60"]
    return Row(folder, "method=toxicity_filter", *given)


def test_a_row_is_marked_where_one_classifier_filters_and_evaluates(tmp_path):
    for name, constant in (("first", 3.0), ("second", -3.0)):
        save(tmp_path / name / "checkpoint-500", constant=constant)
    first, second = (f"{tmp_path}/{name}/checkpoint-500" for name in ("first", "second"))
    assert filtered(tmp_path, first, second).plan.row["notes"] == []
    (note,) = filtered(tmp_path, first, first).plan.row["notes"]
    assert note == "Made with a classifier that evaluates it (first/checkpoint-500)."


def test_a_row_stops_before_anything_is_trained(tmp_path):
    options = save(tmp_path / "roberta", architecture="roberta")
    place = "classifiers.toxicity"
    row = Row(tmp_path, "method=none", f"classifier@{place}=sequence_classification", f"{place}.path={options['path']}",
              f"{place}.categories={{toxicity: 0}}", f"{place}.max_length=64")  # fmt: skip
    with pytest.raises(ValueError, match=r"^classifiers\.toxicity\.path=.*the classifier fails on"):
        row.run()
    assert set(row.built) == {"data"}


def test_scores_of_a_file_are_read_before_anything_is_trained(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text('{"text": "a", "toxicity": 0.5}\n{"text": "b", "toxicity": null}')
    judge = FileClassifier(scores=TextScores(files=str(path), categories={"toxicity": "toxicity"}))
    with pytest.raises(ValueError, match=r"^scores\.files=.*scores\.jsonl:2: `toxicity` is null, not a number"):
        judge.fit(tmp_path)
    path.write_text('{"text": "a", "toxicity": 0.5}')
    assert judge.fit(tmp_path) == {"texts": 1}


class FakeDetoxify:
    """As the package: a single text has numbers, several have lists."""

    def __init__(self, model_type, device):
        assert model_type == "unbiased"

    def predict(self, texts):
        values = [min(len(text), 10) / 10 for text in texts]
        return {
            "toxicity": values if len(values) > 1 else values[0],
            "insult": values if len(values) > 1 else values[0],
        }


def test_detoxify_judges_a_single_text(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "detoxify", SimpleNamespace(Detoxify=FakeDetoxify, __spec__=object()))
    settings = DetoxifyClassifier(batch_size=2)
    assert settings.name == "detoxify unbiased" and settings.fit(tmp_path) == {}
    judge = settings.load()
    assert judge(["abc", "ab", "a"])["insult"].tolist() == [0.3, 0.2, 0.1]
    assert judge(["abc"])["toxicity"].tolist() == [0.3] and judge([])["toxicity"].shape == (0,)


@pytest.fixture
def detoxify(tmp_path):
    """A small checkpoint as Detoxify saves it, and the folder of its base model."""
    options = save(tmp_path / "base", num_labels=3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.model_max_length = 60
    start = ("<|endoftext|>", tokenizer.eos_token_id)  # as the base models' tokenizers begin every text with a mark
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    tokenizer.save_pretrained(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(options["path"]).eval()
    (tmp_path / "base" / "model.safetensors").unlink()
    base = AutoConfig.from_pretrained(tmp_path / "base")
    base.num_labels = 2  # as a base model's configuration says
    base.save_pretrained(tmp_path / "base")
    saved = {
        "config": {
            "arch": {"args": {"model_type": "no/such-model-on-a-hub", "model_name": "BertForSequenceClassification",
                              "tokenizer_name": "PreTrainedTokenizerFast", "num_classes": 3}},
            "dataset": {"args": {"classes": ["toxic", "severe_toxic", "insult"]}},
        },
        "state_dict": model.state_dict() | {"bert.embeddings.position_ids": torch.arange(64)[None]},
    }  # fmt: skip
    torch.save(saved, tmp_path / "detoxify.ckpt")
    return model, tokenizer, dict(checkpoint=str(tmp_path / "detoxify.ckpt"), config=str(tmp_path / "base"))


def test_detoxify_offline_asks_no_hub_and_needs_no_package(detoxify, tmp_path, monkeypatch):
    model, tokenizer, options = detoxify
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", pytest.fail)
    monkeypatch.setattr("socket.socket.connect", pytest.fail)
    settings = DetoxifyClassifier(**options, batch_size=2)
    assert settings.fit(tmp_path) == {} and settings.name == f"detoxify {tmp_path.name}/detoxify.ckpt"
    found = settings.load()([*TEXTS[:2], TRIED[2]])
    assert list(found) == ["toxicity", "severe_toxicity", "insult"]
    for row, text in enumerate([*TEXTS[:2], TRIED[2]]):
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt", truncation=True)).logits.sigmoid()[0]
        assert [found[name][row] for name in found] == pytest.approx(expected.tolist(), abs=1e-6)


def test_mistakes_with_a_checkpoint_of_detoxify_are_named(detoxify, tmp_path):
    _, _, options = detoxify
    with pytest.raises(ValueError, match=r"^config=None: name the folder"):
        DetoxifyClassifier(checkpoint=options["checkpoint"])
    with pytest.raises(ValueError, match=r"^config=.*not a Hugging Face model folder"):
        DetoxifyClassifier(**options | {"config": str(tmp_path)})
    (tmp_path / "other.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"^checkpoint=.*other\.ckpt: not a checkpoint of Detoxify"):
        DetoxifyClassifier(**options | {"checkpoint": f"{tmp_path}/other.ckpt"}).fit(tmp_path)
    saved = torch.load(options["checkpoint"], weights_only=True)
    for key in ("classifier.bias", "config"):
        bad = {**saved, "state_dict": {k: v for k, v in saved["state_dict"].items() if k != key}}
        torch.save({k: v for k, v in bad.items() if k != key}, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match=r"^checkpoint=.*(no weights of classifier\.bias|not a checkpoint)"):
            DetoxifyClassifier(**options | {"checkpoint": f"{tmp_path}/other.ckpt"}).fit(tmp_path)
