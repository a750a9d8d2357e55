"""A judge against one answer at a time, and made-up judges whose preference and whose bias are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer
from torch import nn

from ifguide.evaluation.judge import Judge, answer_log_odds, same_in_both_orders, wins
from ifguide.models import ModelSettings

TEMPLATE = "Text: {prompt}\nA:{first}\nB:{second}\nAnswer:"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(["Text: one\nA: the cat sat\nB: an idiot\nAnswer: A", "Text: a\nA: b\nB: c\nAnswer: B"] * 9)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    settings = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    settings["max_position_embeddings"] = 120
    ModelSettings(architecture="gpt_neox", settings=settings).build(320, None).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class MadeUp(nn.Module):
    """Dislikes `idiot`, and likes A for being A."""

    def __init__(self, tokenizer, bias, dislike=2.0):
        super().__init__()
        self.tokenizer, self.bias, self.dislike, self.questions = tokenizer, bias, dislike, set()
        self.config, self.device = SimpleNamespace(), CPU

    def forward(self, input_ids, use_cache):
        logits = torch.zeros(*input_ids.shape, 320)
        for row, ids in enumerate(input_ids):
            text = self.tokenizer.decode(ids)
            place = next(t for t in range(len(ids)) if self.tokenizer.decode(ids[: t + 1]).endswith("Answer:"))
            self.questions.add(text.split("Answer:")[0])
            a, b = text.split("\nA:")[1].split("Answer:")[0].split("\nB:")
            odds = self.bias + self.dislike * (b.count("idiot") - a.count("idiot"))
            logits[row, place, self.tokenizer.encode(" A")[0]] = odds
        return SimpleNamespace(logits=logits)


def generations(*rows):
    return [{"record": record, "prompt": f"one {record}", "continuations": list(texts)} for record, *texts in rows]


def test_log_odds_are_those_of_single_answers(folder, tokenizer):
    model = ModelSettings(pretrained=folder).build(320, None).double().eval()
    questions = [TEMPLATE.format(prompt="one", first=" the cat", second=text) for text in (" idiot", " sat on it")]
    found = answer_log_odds(model, tokenizer, questions, batch_size=3)
    for question, odds in zip(questions, found, strict=True):
        slow = []
        for answer in (" A", " B"):
            start = [tokenizer.eos_token_id, *tokenizer.encode(question)]
            ids = [*start, *tokenizer.encode(answer)]
            with torch.no_grad():
                losses = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            slow.append(sum(float(losses[place - 1, ids[place]]) for place in range(len(start), len(ids))))
        assert odds == pytest.approx(slow[0] - slow[1], rel=1e-6)
    with pytest.raises(ValueError, match="the judge's context only 120"):
        answer_log_odds(model, tokenizer, ["one " * 200], batch_size=1)


@pytest.mark.parametrize("bias", [0.0, 1.0, 9.0, -9.0])
def test_a_bias_to_one_place_cancels(folder, tokenizer, bias, monkeypatch):
    made_up = MadeUp(tokenizer, bias)
    monkeypatch.setattr("ifguide.evaluation.judge.load_model", lambda path, trust_remote_code: made_up)
    first = generations((0, " the cat"), (1, " idiot"), (2, " sat"), (3, " idiot idiot"), (4, " the"))
    second = generations((3, " an idiot"), (2, " sat"), (1, " cat"), (0, " an idiot"), (9, " the"))
    rows = Judge(pretrained=folder, template=TEMPLATE)(first, second, CPU)
    assert [(row["record"], row["first"], row["second"]) for row in rows] == [
        (0, " the cat", " an idiot"), (1, " idiot", " cat"), (2, " sat", " sat"), (3, " idiot idiot", " an idiot")
    ]  # fmt: skip
    odds = np.array([row["log_odds"] for row in rows])
    assert odds == pytest.approx(np.array([[bias + 2, bias - 2], [bias - 2, bias + 2], [0, 0], [bias - 2, bias + 2]]))
    assert wins(odds).tolist() == [1, 0, 0.5, 0]
    assert same_in_both_orders(odds).mean() == (1 if abs(bias) < 2 else 0.25)
    assert len(made_up.questions) == 6, "equal texts are not asked about"


def test_prompts_are_drawn_and_samples_are_paired(folder, tokenizer, monkeypatch):
    monkeypatch.setattr("ifguide.evaluation.judge.load_model", lambda *_, **__: MadeUp(tokenizer, 0.0))
    first, second = (generations(*((i, f" {word}", " cat") for i in range(30))) for word in ("the", "idiot"))
    judge = Judge(pretrained=folder, template=TEMPLATE, limit=10, samples=2)
    rows = judge(first, second, CPU)
    assert len(rows) == 20 and len({row["record"] for row in rows}) == 10 and rows == judge(first, second[::-1], CPU)
    assert len({row["record"] % 2 for row in rows}) == 2
    assert wins(np.array([row["log_odds"] for row in rows])).tolist() == [1, 0.5] * 10
    with pytest.raises(ValueError, match=r"^samples=3: a prompt has fewer"):
        Judge(pretrained=folder, template=TEMPLATE, samples=3)(first, second, CPU)
    with pytest.raises(ValueError, match="no prompt that is the same"):
        judge(first, generations((99, " the")), CPU)


def test_mistakes_are_named(folder, tmp_path):
    for settings, message in (
        ({"pretrained": str(tmp_path)}, r"^pretrained=.*not a Hugging Face model folder"),
        ({"template": "{prompt} {first}"}, r"\{second\} must be in it"),
        ({"template": TEMPLATE + "{"}, "write braces that are no places twice"),
        ({"template": TEMPLATE + "{word}"}, "write braces that are no places twice"),
        ({"limit": 0}, r"^limit=0"),
    ):
        with pytest.raises(ValueError, match=message):
            Judge(**{"pretrained": folder, "template": TEMPLATE} | settings)
