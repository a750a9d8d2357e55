"""Everything that the configuration makes describes itself, so that artifacts are found by what decides them."""

import json
from dataclasses import replace

import pytest
import torch
from composing import CONF, composed
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

from ifguide.training.classifier import TrainedClassifier
from ifguide.workspace import describe, fingerprint_of

GROUPS = (
    "classifier", "curvature", "data", "filter", "judge", "labelled", "objective", "pairs", "pooling", "queries",
    "scorer", "selection", "student", "task", "utility",
)  # fmt: skip
OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml") if path.parent.name in GROUPS)
PLACES = {"classifier": "classifiers", "queries": "behaviours", "task": "tasks", "utility": "utilities"}
OTHERS = {int: lambda value: value + 1, bool: lambda value: not value, str: lambda value: f"{value} again",
          TrainedClassifier: lambda value: replace(value, epochs=value.epochs + 1)}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What options with a mandatory file need: the same file serves all, and folders of two tiny models."""
    folder = tmp_path_factory.mktemp("files")
    record = {
        "text": "one idiot", "input": "a", "prompt": "a", "continuation": " cat", "label": "toxic", "toxicity": 0.5,
        "chosen": " mat", "rejected": " idiot",
    }  # fmt: skip
    (folder / "records.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record | {"label": "fine"}))
    tokenizer = tiny_tokenizer([record["text"]])
    for name in ("judge", "checkpoint"):
        tokenizer.save_pretrained(folder / name)
    tiny_model(dtype=torch.float32).save_pretrained(folder / "judge")
    config = AutoConfig.for_model(
        "roberta", vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label={0: "fine", 1: "toxic"}, label2id={"fine": 0, "toxic": 1},
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "checkpoint")
    return folder


def make(group, option, files):
    """An option of a group, made as a run makes it; skipped where it needs what is not here."""
    place = f"{PLACES[group]}.{'x' if group == 'utility' else 'toxicity'}" if group in PLACES else group
    local = f"{files}/records.jsonl"
    given = {
        ("classifier", "perspective_file"): {"scores.files": local},
        ("classifier", "sequence_classification"): {
            "path": f"{files}/checkpoint", "categories": "{toxicity: toxic}",
        },
        ("classifier", "toxigen_roberta"): {"path": f"{files}/checkpoint"},
        ("classifier", "local"): {"texts.local.files": local},
        ("classifier", "from_queries"): {"behaviour": "toxicity"},
        ("data", "local"): {"sources.local.files": local},
        ("task", "attaq"): {"prompts.files": local},
        ("task", "local"): {"prompts.files": local},
        ("judge", "quality"): {"pretrained": f"{files}/judge"},
        ("judge", "toxicity"): {"pretrained": f"{files}/judge"},
        ("utility", "lm_eval"): {"tasks": "[piqa]"},
    }  # fmt: skip
    settings = given.get((group, option), {"files": local} if option == "local" else {})
    chosen = f"{group}@{place}={option}" if group in PLACES else f"{group}={option}"
    chosen = f"+{chosen}" if group == "utility" else chosen
    beside = ["data=answered_tweets"] if option == "answers" else []  # which it asks about
    cfg = composed(chosen, *beside, *(f"{place}.{key}={value}" for key, value in settings.items()))
    try:
        return instantiate(OmegaConf.select(cfg, place), _convert_="all")
    except InstantiationException as error:
        if any(
            reason in str(error) for reason in ("IFGUIDE_DATASETS", "is not installed", "does not answer", "on the Hub")
        ):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("group, option", OPTIONS)
def test_every_option_describes_itself(group, option, files):
    made = make(group, option, files)
    described = describe(made)
    assert fingerprint_of(described) == fingerprint_of(json.loads(json.dumps(described)))
    assert describe(make(group, option, files)) == described
    for name in getattr(made, "NOT_SETTINGS", ()):
        value = getattr(made, name)
        other = replace(made, **{name: OTHERS[type(value)](value)})
        assert describe(other) == described, f"{name} decides nothing"
    assert str(files) not in json.dumps(described), "the content of a file decides, not where it lies"
