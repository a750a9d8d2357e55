"""Texts whose label is said in words, and a model that is asked about others."""

import math

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from ifguide.corpus.answered import AnsweredSource
from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import hash_fraction
from ifguide.evaluation.answers import Answers
from ifguide.statistics import roc_auc

TEXTS = [LabelledText(f"{n} the cat sat{' and saw one idiot' * (n % 3 == 0)}", float(n % 3 == 0)) for n in range(60)]


def test_documents_are_text_question_and_answer_and_their_spans_the_answers():
    source = AnsweredSource(texts=TEXTS, question=" toxic?", positive=" yes", negative=" no", held_out=0.3)
    documents, (learned, held_out) = list(source), source.parts
    assert [row.text for row in held_out] == [row.text for row in TEXTS if hash_fraction(row.text) < 0.3]
    assert len(documents) == len(learned) == len(TEXTS) - len(held_out)
    for document, row in zip(documents, learned, strict=True):
        answer = " yes" if row.toxic else " no"
        assert document.text == f"{row.text} toxic?{answer}"
        ((start, end),) = document.spans
        assert document.text[start:end] == answer
        assert document.label == ("toxic" if row.toxic else "benign")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"held_out": 0}, "held_out=0: a share"),
        ({"positive": " no"}, "two different answers"),
        ({"negative": " "}, "two different answers"),
    ],
)
def test_what_cannot_be_asked_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        AnsweredSource(texts=TEXTS, **given)


def test_a_class_that_is_missing_is_said():
    with pytest.raises(ValueError, match="those that are learned need both"):
        list(AnsweredSource(texts=[LabelledText("a", 1.0), LabelledText("b", 1.0)]))


def test_scores_are_the_log_odds_of_the_answers_after_text_and_question():
    tokenizer = tiny_tokenizer([row.text + " toxic? yes no" for row in TEXTS])
    model = tiny_model("gpt2")
    model.resize_token_embeddings(len(tokenizer.get_vocab()))
    source = AnsweredSource(texts=TEXTS, question=" toxic?", held_out=0.5)
    found = Answers(source=source, batch_size=7)(model, tokenizer)["all"]
    scores, toxic = [], []
    for row in source.parts[1]:
        odds = []
        for answer in (" yes", " no"):
            asked, ids = (tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
                          for text in (row.text + " toxic?", answer))  # fmt: skip
            sequence = [tokenizer.eos_token_id, *asked, *ids]
            with torch.no_grad():
                log_p = model(input_ids=torch.tensor([sequence])).logits[0].log_softmax(-1)
            odds.append(sum(float(log_p[place - 1, sequence[place]]) for place in range(len(asked) + 1, len(sequence))))
        scores.append(odds[0] - odds[1])
        toxic.append(row.toxic)
    assert found["judged"] == len(scores) > 10
    assert math.isclose(found["roc_auc"], roc_auc(np.array(scores), np.array(toxic)))
    assert found["roc_auc_interval"][0] <= found["roc_auc"] <= found["roc_auc_interval"][1]
