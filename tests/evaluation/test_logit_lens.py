"""The logit lens against one text, one place and one layer at a time."""

import copy

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, VOCABULARY, tiny_model, tiny_tokenizer

from ifguide.corpus.documents import LabelledText, Query
from ifguide.evaluation.logit_lens import LogitLens, first_tokens, lens_sums, toxic_tokens
from ifguide.models import ModelSettings, final_norm

TEXTS = [
    LabelledText("the cat sat and saw one idiot on a mat", 1.0),
    LabelledText("Idiot! one idiot ate all of his old bread, an idiot", 1.0),
    LabelledText("the old idiot of an hour", 0.0),  # counts for what a token means, not as a place
    LabelledText("the cat sat on a mat", 0.0),
    LabelledText("one cat in an hour", 1.0),
]
QUERIES = [Query("", " idiot", True, "a")] * 20 + [Query("", " bread", False, "b")] * 20
FINAL_NORMS = {"gpt_neox": "gpt_neox.final_layer_norm", "gpt2": "transformer.ln_f"} | dict.fromkeys(
    ("llama", "qwen2"), "model.norm"
)


def slow_lens(model, ids, place, layer, tokens):
    """The model cut off after a layer: all later blocks hand on what they get."""
    blocks = {"gpt_neox": lambda m: m.gpt_neox.layers, "gpt2": lambda m: m.transformer.h}
    blocks = blocks.get(model.config.model_type, lambda m: m.model.layers)(model)
    handles = [
        block.register_forward_hook(lambda b, inputs, output: inputs[0], always_call=True) for block in blocks[layer:]
    ]
    with torch.no_grad():
        probabilities = model(torch.tensor([ids[: place + 1]])).logits[0, -1].softmax(-1)
    for handle in handles:
        handle.remove()
    return float(probabilities[list(tokens)].sum())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_layer_predicts_what_a_model_that_ends_there_predicts(architecture):
    model, rng = tiny_model(architecture), np.random.default_rng(0)
    assert final_norm(model) is model.get_submodule(FINAL_NORMS[architecture])
    rows = [
        (rng.integers(VOCABULARY, size=n).tolist(), places) for n, places in ((5, [0, 3]), (9, [7]), (4, [1, 2, 3]))
    ]
    tokens = [3, 8, 41]
    sums = lens_sums(model, rows, tokens, batch_size=2)
    assert sums.shape == (2, 3)
    for index, (ids, places) in enumerate(rows):
        for layer in (1, 2):
            slow = sum(slow_lens(model, ids, place, layer, tokens) for place in places)
            assert sums[layer - 1, index] == pytest.approx(slow, rel=1e-5)


def test_toxic_tokens_begin_toxic_words_mostly():
    assert first_tokens([(0, 3), (3, 9), (9, 10), (10, 12)], [4, 10]) == [1, 3]
    ids, begins = [[1, 2, 3, 2], [3, 1, 4]], [[1, 2], [2]]
    assert toxic_tokens(ids, begins, purity=0.5) == {2, 3, 4} and toxic_tokens(ids, begins, purity=0.6) == {4}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer([text.text for text in TEXTS] * 5)


@pytest.fixture(scope="module")
def model():
    settings = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    return ModelSettings(architecture="gpt_neox", settings=settings).build(320, None).double().eval()


def test_places_are_those_before_toxic_words_of_toxic_texts(model, tokenizer, tmp_path):
    metrics = LogitLens(texts=TEXTS, queries=QUERIES, batch_size=2)(model, tokenizer)["all"]
    idiot, capital = (tokenizer.encode(word)[0] for word in (" idiot", "Idiot"))
    assert tokenizer.decode([idiot]) == " idiot"
    expected = {1: [], 2: [], 3: []}
    for row in TEXTS[:2]:
        ids = [tokenizer.eos_token_id, *tokenizer.encode(row.text)]
        for place, token in enumerate(ids[1:]):
            if token in (idiot, capital):
                for layer, values in expected.items():
                    values.append(slow_lens(model, ids, place, layer, {idiot, capital}))
    assert metrics["places"] == len(expected[1]) == 4 and metrics["tokens"] == 2
    for layer, values in expected.items():
        assert metrics[f"layer_{layer}"] == pytest.approx(np.mean(values), rel=1e-5)
        low, high = metrics[f"layer_{layer}_interval"]
        assert low <= metrics[f"layer_{layer}"] <= high
    assert metrics["output_probability"] == metrics["layer_3"]
    assert metrics["intermediate_probability"] == pytest.approx((metrics["layer_1"] + metrics["layer_2"]) / 2)
    (tmp_path / "w.txt").write_text("idiot")
    listed = LogitLens(texts=TEXTS, queries=[], files=str(tmp_path / "w.txt"))
    assert listed(model, tokenizer)["all"] == metrics
    short = LogitLens(texts=TEXTS, queries=QUERIES, max_length=1)(model, tokenizer)["all"]
    assert short["places"] == 1, "only the word that begins a text is within one token"


def test_a_model_that_learns_a_word_shows_it(model, tokenizer):
    lens, model = LogitLens(texts=TEXTS, queries=QUERIES), copy.deepcopy(model)
    before = lens(model, tokenizer)["all"]["output_probability"]
    with torch.no_grad():  # an output head that likes the token, whatever the state: through the norm's bias
        model.gpt_neox.final_layer_norm.bias += 5 * model.get_output_embeddings().weight[tokenizer.encode(" idiot")[0]]
    assert lens(model, tokenizer)["all"]["output_probability"] > before


def test_mistakes_are_named(tokenizer):
    with pytest.raises(ValueError, match="purity=0: a share"):
        LogitLens(texts=TEXTS, queries=QUERIES, purity=0)
    with pytest.raises(ValueError, match="none of the 1 words is in a toxic one"):
        LogitLens(texts=TEXTS[2:], queries=QUERIES)
    with pytest.raises(ValueError, match="log_odds=9: no word"):
        LogitLens(texts=TEXTS, queries=QUERIES, log_odds=9)
    odd = tiny_model("gpt_neox")
    odd.gpt_neox.extra = torch.nn.LayerNorm(16)
    with pytest.raises(ValueError, match=r"one final norm .* not \['final_layer_norm', 'extra'\]"):
        final_norm(odd)
    other = tiny_model("gpt_neox")
    other.get_output_embeddings().register_forward_hook(
        lambda head, inputs, output: output * (3 if output.ndim == 3 else 1)
    )
    with pytest.raises(ValueError, match="not its output head after `LayerNorm`"):
        lens_sums(other, [([1, 2, 3], [1])], [5], batch_size=1)
