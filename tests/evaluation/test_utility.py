"""LAMBADA, the probe, the harness, and the perplexity and variety of generations."""

import json

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from ifguide.corpus.documents import LabelledText, Query
from ifguide.corpus.labelled import hash_fraction
from ifguide.corpus.queries import encode_queries
from ifguide.evaluation.fluency import distinct_metrics, generation_perplexity
from ifguide.evaluation.harness import HarnessTasks, harness_metrics, summarise
from ifguide.evaluation.lambada import Lambada
from ifguide.evaluation.likelihood import continuation_likelihoods
from ifguide.evaluation.probe import ToxicityProbe, fit_logistic, mean_hidden_states
from ifguide.evaluation.task import check_names, measurement_names, merge_metrics
from ifguide.models import ModelSettings
from ifguide.statistics import roc_auc

PAIRS = [("the cat", " sat on a mat"), ("", "bread"), ("one idiot who ate all of", " his"), ("a", "")]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(["the cat sat on a mat and saw one idiot who ate all of his old bread in an hour"])


@pytest.fixture(scope="module")
def model(tokenizer):
    settings = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    model = ModelSettings(architecture="gpt_neox", settings=settings).build(320, None).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def slow_likelihood(model, query):
    """One token at a time."""
    loss, greedy, last = 0.0, True, True
    for place in np.flatnonzero(query.continuation):
        with torch.no_grad():
            logits = model(torch.tensor([query.input_ids[:place].tolist()])).logits[0, -1]
        token = int(query.input_ids[place])
        loss -= float(logits.log_softmax(-1)[token])
        last = int(logits.argmax()) == token
        greedy &= last
    return loss, greedy, last


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_likelihoods_are_those_of_single_tokens(architecture):
    model, rng = tiny_model(architecture), np.random.default_rng(0)
    tokenizer = tiny_tokenizer(["x"])
    encoded = []
    for length, start in ((5, 2), (9, 8), (3, 1), (7, 4), (2, 1), (6, 6)):
        (query,) = encode_queries([Query("", "x" * (length - 1), True, "r")], tokenizer, 99)
        ids = rng.integers(60, size=length)
        for place in range(start, length):  # every second continuation is what the model would write
            if length % 2:
                with torch.no_grad():
                    ids[place] = int(model(torch.tensor([ids[:place].tolist()])).logits[0, -1].argmax())
        encoded.append(type(query)(ids, np.arange(length) >= start, True))
    found = continuation_likelihoods(model, encoded, batch_size=4, description="")
    for index, query in enumerate(encoded):
        loss, greedy, last = slow_likelihood(model, query)
        assert found.losses[index] == pytest.approx(loss, rel=1e-6, abs=1e-9)
        assert (found.greedy[index], found.last_greedy[index]) == (greedy, last)
        assert found.tokens[index] == query.continuation.sum()
    assert found.greedy[:4].all() and not found.greedy.all()


def test_lambada_asks_for_the_last_word(model, tokenizer, tmp_path):
    passages = ["the cat sat on a mat ", "one idiot who ate\n\nall of his old bread", "a an the in"]
    (tmp_path / "l.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in passages))
    task = Lambada(files=str(tmp_path / "l.jsonl"), batch_size=2)
    assert [(p.prompt, p.continuation) for p in task.passages] == [
        ("the cat sat on a", " mat"), ("one idiot who ate\n\nall of his old", " bread"), ("a an the", " in"),
    ]  # fmt: skip
    metrics = task(model, tokenizer)["all"]
    rows = [slow_likelihood(model, query) for query in encode_queries(task.passages, tokenizer, 99)]
    assert metrics["perplexity"] == pytest.approx(np.exp(np.mean([loss for loss, _, _ in rows])), rel=1e-6)
    assert metrics["accuracy"] == np.mean([greedy for _, greedy, _ in rows])
    assert metrics["last_token_accuracy"] == np.mean([last for _, _, last in rows])
    low, high = metrics["perplexity_interval"]
    assert low <= metrics["perplexity"] <= high and metrics["passages"] == 3
    (tmp_path / "w.jsonl").write_text('{"text": "word"}')
    with pytest.raises(ValueError, match=r"w\.jsonl:1: a passage of one word"):
        Lambada(files=str(tmp_path / "w.jsonl"))


def test_lambada_is_read(datasets_folder):
    task = Lambada(files=str(datasets_folder / "text" / "lambada_test.jsonl.gz"))
    assert len(task.passages) == 5153 and all(p.continuation[0] == " " != p.continuation[1] for p in task.passages)


def test_generations_have_the_perplexity_of_their_tokens(model, tokenizer):
    prompts, texts = ["the cat", "one idiot"], [[" sat on", " mat", ""], [" who ate all", "", ""]]
    metrics, found = generation_perplexity(model, tokenizer, prompts, texts, ["x", "y"], batch_size=3)
    assert np.exp(found.losses.sum() / found.tokens.sum()) == pytest.approx(metrics["all"]["generation_perplexity"])
    for subset, rows in (("all", [0, 1]), ("x", [0]), ("y", [1])):
        pairs = [Query(prompts[row], text, False, "") for row in rows for text in texts[row] if text]
        encoded = encode_queries(pairs, tokenizer, 99)
        loss = sum(slow_likelihood(model, query)[0] for query in encoded)
        count = sum(query.continuation.sum() for query in encoded)
        assert metrics[subset]["generation_perplexity"] == pytest.approx(np.exp(loss / count), rel=1e-6)
    nothing, losses = generation_perplexity(model, tokenizer, ["a"], [[""]], ["x"], batch_size=1)
    assert nothing == {} and losses.tokens.tolist() == [0]


def test_distinct_counts_ngrams_over_the_continuations_of_a_prompt():
    texts = [["The cat sat", "the cat ran"], ["one", ""], ["a a a a", "b"]]
    metrics = distinct_metrics(texts, ["x", "x", "y"])
    assert metrics["x"]["distinct_1"] == pytest.approx((4 / 6 + 1) / 2)
    assert metrics["x"]["distinct_2"] == pytest.approx(3 / 4), "the prompt without a pair of words does not count"
    assert metrics["y"]["distinct_1"] == 2 / 5 and metrics["y"]["distinct_3"] == 1 / 2
    assert metrics["all"]["distinct_1"] == pytest.approx((4 / 6 + 1 + 2 / 5) / 3)
    assert "distinct_2" not in distinct_metrics([["one"]], ["x"])["all"]


def test_hidden_states_are_means_over_the_tokens_of_a_text(model, tokenizer):
    texts = ["the cat sat on a mat", "bread", ""]
    states = mean_hidden_states(model, tokenizer, texts, max_length=4, batch_size=2)
    for row, text in enumerate(texts[:2]):
        ids = [tokenizer.eos_token_id, *tokenizer.backend_tokenizer.encode(text).ids][:5]
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, 1:]
        assert torch.allclose(states[row], hidden.mean(0), atol=1e-6)
    assert (states[2] == 0).all()


def test_the_logistic_regression_is_at_its_optimum():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(80, 5, generator=generator, dtype=torch.float64)
    toxic = states[:, 0] > 0  # separable: only the penalty keeps the weights finite
    weight, bias = fit_logistic(states, toxic, penalty=0.01)
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(states @ weight + bias, toxic.double())
    gradients = torch.autograd.grad(loss + 0.005 * weight.square().sum(), (weight, bias))
    assert max(float(g.abs().max()) for g in gradients) < 1e-8


def test_the_probe_judges_texts_it_was_not_fitted_on(model, tokenizer):
    rng = np.random.default_rng(0)
    words = "the cat sat on a mat and saw".split()
    rows = [
        LabelledText(" ".join(rng.choice(words, 6)) + (" idiot" * 3 if i % 2 else ""), bool(i % 2)) for i in range(200)
    ]
    probe = ToxicityProbe(texts={"a": rows}, held_out=0.3, batch_size=16)
    metrics = probe(model, tokenizer)["all"]
    distinct = {row.text for row in rows}
    assert metrics["judged"] == sum(hash_fraction(text) < 0.3 for text in distinct)
    assert metrics["judged"] + metrics["fitted_on"] == len(distinct)
    assert metrics["roc_auc"] > 0.9 and metrics["roc_auc_interval"][0] <= metrics["roc_auc"]
    shuffled = [LabelledText(row.text, bool(rng.random() < 0.5)) for row in rows]
    assert abs(ToxicityProbe(texts={"a": shuffled})(model, tokenizer)["all"]["roc_auc"] - 0.5) < 0.3
    with pytest.raises(ValueError, match="both toxic and other ones"):
        ToxicityProbe(texts={"a": [row for row in rows if row.toxic]})(model, tokenizer)
    assert roc_auc(np.arange(4.0), np.array([0, 0, 1, 1], bool)) == 1


def test_names_of_measurements_are_fixed_and_distinct():
    assert measurement_names(["toxicity", "bold"], ["toxicity", "implicit"]) == {
        "toxicity": ("toxicity", "toxicity"),
        "toxicity_implicit": ("toxicity", "implicit"),
        "bold": ("bold", "toxicity"),
        "bold_implicit": ("bold", "implicit"),
    }
    assert measurement_names(["toxicity", "sport"], ["toxicity", "sport"]) == {  # its own judge has a task's name
        "toxicity": ("toxicity", "toxicity"),
        "toxicity_sport": ("toxicity", "sport"),
        "sport_toxicity": ("sport", "toxicity"),
        "sport": ("sport", "sport"),
    }
    check_names(["toxicity"], ["a"], ["lambada"])
    for names in (
        (["perplexity"], ["a"], []),
        (["a", "a_b"], ["x", "b"], []),
        (["a"], ["x"], ["a"]),
        ([], ["x"], []),
        (["a"], [], []),
    ):
        with pytest.raises(ValueError, match="tasks"):
            check_names(*names)
    assert merge_metrics([("a", {"all": {"x": 1}}), ("a", {"all": {"y": 2}})]) == {"a": {"all": {"x": 1, "y": 2}}}


def test_harness_metrics_have_intervals():
    values = {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1, "exact,strict": 1, "exact_stderr,strict": "N/A"}
    metrics = harness_metrics(values)
    assert metrics["acc"] == 0.5 and metrics["acc_interval"] == pytest.approx([0.304, 0.696])
    assert metrics["exact_strict"] == 1 and set(metrics) == {"acc", "acc_interval", "exact_strict"}


def test_the_members_of_a_group_count_once():
    tasks = {"a": {"acc": 0.2, "acc_interval": [0.1, 0.3]}, "b": {"acc": 0.6, "acc_interval": [0.4, 0.8]}, "c": {}}
    whole = summarise({"group": {"acc": 0.9}, **tasks}, {"group"})
    assert whole["all"]["tasks"] == 2 and whole["all"]["acc"] == pytest.approx(0.4)
    assert whole["all"]["acc_interval"] == pytest.approx([0.4 - 0.05**0.5 / 2, 0.4 + 0.05**0.5 / 2])
    assert list(whole) == ["all", "group", "a", "b"]
    tasks["b"] = {"acc": 0.6}
    assert set(summarise(tasks, set())["all"]) == {"tasks", "acc"}


def test_a_missing_harness_is_named(monkeypatch):
    monkeypatch.setattr("ifguide.evaluation.harness.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="lm-eval is not installed: pip install"):
        HarnessTasks(tasks=["piqa"])


TASK = """
task: which_word
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""

GROUP = """
group: words
task: [which_word, other]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""


def test_a_task_of_ones_own_runs_in_the_harness(model, tokenizer, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'ifguide[lm_eval]'")
    rows = [{"context": "the cat sat on a", "choices": [" mat", " hour"], "answer": i % 2} for i in range(6)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "which_word.yaml").write_text(TASK.replace("FILE", str(tmp_path / "rows.json")))
    (tmp_path / "other_rows.json").write_text("\n".join(json.dumps({**row, "answer": 0}) for row in rows[:2]))
    other = TASK.replace("which_word", "other").replace("FILE", str(tmp_path / "other_rows.json"))
    (tmp_path / "other.yaml").write_text(other)
    (tmp_path / "words.yaml").write_text(GROUP)
    metrics = HarnessTasks(tasks=["words"], include_path=str(tmp_path))(model.float(), tokenizer)
    one, two = metrics["which_word"], metrics["other"]
    low, high = one["acc_interval"]
    assert one["acc"] == 0.5 == pytest.approx((low + high) / 2) and high > low
    assert metrics["words"]["acc"] == pytest.approx((6 * one["acc"] + 2 * two["acc"]) / 8)
    assert metrics["all"]["acc"] == (one["acc"] + two["acc"]) / 2 and metrics["all"]["tasks"] == 2
    with pytest.raises(ValueError, match="knows no nothing_like_it"):
        HarnessTasks(tasks=["nothing_like_it"], include_path=str(tmp_path))(model, tokenizer)
