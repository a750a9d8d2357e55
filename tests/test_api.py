"""The library: what it returns is what the rooms below return, and a user's mistakes end in one line."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from tiny import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import ifguide
from ifguide.corpus.documents import Query
from ifguide.corpus.queries import encode_queries
from ifguide.influence.curvature import Curvature
from ifguide.influence.damped_system import DampedSystem
from ifguide.influence.direction import precondition_direction, query_gradient
from ifguide.influence.factors import by_layer
from ifguide.influence.refinement import RefiningModule, refine
from ifguide.influence.scorers import JVP
from ifguide.influence.scoring import sample_rows
from ifguide.influence.selection import Algorithm1, select_tokens
from ifguide.influence.store import create_scores
from ifguide.training.trainer import TrainerSettings

TEXTS = [f"{n} the clerk was in a hurry, and one clerk is a rude idiot. " * (1 + n % 3) for n in range(40)]
POSITIVE, NEGATIVE = [("the clerk is", " a rude idiot"), "an idiot"], [("the clerk was", " in a hurry")]
CURVATURE = Curvature(blocks=16)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=320,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def blocks(tokenizer):
    return ifguide.make_blocks(Dataset.from_dict({"text": TEXTS}), tokenizer, block_length=16)


@pytest.fixture(scope="module")
def fitted(model, blocks):
    return ifguide.fit_curvature(model, blocks, curvature=CURVATURE, progress=False)


@pytest.fixture(scope="module")
def direction(model, tokenizer, fitted):
    return ifguide.make_direction(model, tokenizer, fitted, positive=POSITIVE, negative=NEGATIVE)


def test_a_direction_is_refined_as_a_run_refines_it(model, tokenizer, blocks, fitted, tmp_path):
    settings = ifguide.ConjugateGradients(steps=3, blocks=8)
    queries = {"positive": POSITIVE, "negative": NEGATIVE}
    plain = ifguide.make_direction(model, tokenizer, fitted, **queries)
    found = ifguide.make_direction(model, tokenizer, fitted, **queries, refine=settings, blocks=blocks)
    asked = [Query("the clerk is", " a rude idiot", True, ""), Query("", "an idiot", True, ""),
             Query("the clerk was", " in a hurry", False, "")]  # fmt: skip
    own = model.eval()
    gradient = query_gradient(own, encode_queries(asked, tokenizer, 16, own.config), batch_size=16)
    rows = torch.from_numpy(blocks.tokens(sample_rows(len(blocks), 8, 0)))
    system = partial(
        DampedSystem, own, settings, CURVATURE, fitted.factors, gradient=gradient, blocks_BT=rows, batch_size=16
    )
    module = RefiningModule(own, system, start=plain, steps=3, folder=tmp_path)
    refine(TrainerSettings(progress=False).inference_trainer(), module)
    assert not all(torch.allclose(found[name], plain[name]) for name in found)
    for name, value in module.direction().items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6 * float(value.abs().max()))
    for wrong in ({"refine": settings}, {"blocks": blocks}):
        with pytest.raises(ValueError, match="refine: it needs blocks"):
            ifguide.make_direction(model, tokenizer, fitted, **queries, **wrong)
    undamped = replace(fitted, curvature=Curvature(blocks=16, damping=0.0))
    with pytest.raises(ValueError, match="damping above 0"):
        ifguide.make_direction(model, tokenizer, undamped, **queries, refine=settings, blocks=blocks)


def test_texts_are_joined_and_cut_and_rows_of_tokens_taken_as_they_are(blocks, tokenizer):
    stream = [
        [*tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.eos_token_id]
        for text in TEXTS
    ]
    flat = list(chain(*stream))
    assert blocks.tokens(slice(None)).reshape(-1).tolist() == flat[: len(flat) // 16 * 16]
    assert blocks.documents["start"].tolist() == np.cumsum([0, *map(len, stream[:-1])]).tolist()
    assert blocks.documents["record"].tolist() == list(range(40))
    again = ifguide.make_blocks(Dataset.from_dict({"input_ids": blocks.tokens(slice(None)).tolist()}))
    assert (again.tokens(slice(None)) == blocks.tokens(slice(None))).all()
    assert again.documents["start"].tolist() == list(range(0, 16 * len(again), 16))
    ragged = Dataset.from_dict({"input_ids": stream})
    assert (ifguide.make_blocks(ragged, block_length=16).tokens(slice(None)) == blocks.tokens(slice(None))).all()
    padded = [row + [0] * (200 - len(row)) for row in stream]
    seen = [[1] * len(row) + [0] * (200 - len(row)) for row in stream]
    without = ifguide.make_blocks(Dataset.from_dict({"input_ids": padded, "attention_mask": seen}), block_length=16)
    assert (without.tokens(slice(None)) == blocks.tokens(slice(None))).all()
    streamed = IterableDataset.from_generator(lambda: ({"text": text} for text in TEXTS))
    streamed = ifguide.make_blocks(streamed, tokenizer, block_length=16)
    assert (streamed.tokens(slice(None)) == blocks.tokens(slice(None))).all()


def test_the_mask_is_that_of_the_rooms_below(model, blocks, tokenizer, direction):
    queries = [
        Query("the clerk is", " a rude idiot", True, "1"), Query("", "an idiot", True, "2"),
        Query("the clerk was", " in a hurry", False, "3"),
    ]  # fmt: skip
    tokens = blocks.tokens(slice(None))
    rows = np.sort(np.random.default_rng(0).permutation(len(blocks))[:16])
    factors = by_layer(CURVATURE.fit(model, tokens[rows], batch_size=16, seed=0, progress=False))
    gradient = query_gradient(model, encode_queries(queries, tokenizer, 16, model.config), batch_size=16)
    expected = precondition_direction(model, gradient, factors, CURVATURE)
    assert direction.keys() == expected.keys()
    assert all(torch.allclose(direction[name], expected[name], rtol=1e-3, atol=1e-5) for name in expected)
    scores = ifguide.score(model, blocks, {"rude": direction, "none": {k: -v for k, v in direction.items()}})
    scorer = JVP(form="reference").prepare(model.eval(), [direction], torch.from_numpy(tokens[:2]))
    reference = scorer(torch.from_numpy(tokens))[0].numpy()
    assert np.allclose(scores["rude"], reference, rtol=1e-3, atol=1e-3 * reference.std())
    assert np.allclose(scores["none"], -reference, rtol=1e-3, atol=1e-3 * reference.std())
    rule = Algorithm1(quantile=0.9, limit=0.1)
    mask = ifguide.select({"rude": scores["rude"]}, blocks, selection=rule)
    assert (mask[:] == select_tokens(scores["rude"], quantile=0.9, limit=0.1).mask[:]).all() and mask.count()
    pooled = ifguide.pool(scores, blocks, tokenizer)
    assert pooled["rude"].shape == tokens.shape and (pooled["rude"][:, 0] == 0).all()
    assert np.allclose(pooled["none"], -pooled["rude"], atol=1e-4 * abs(pooled["rude"]).max())


def test_a_model_and_a_tokenizer_are_left_as_they_were(blocks, tokenizer):
    torch.manual_seed(1)
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=320)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = tokenizer.backend_tokenizer.to_str()
    fitted = ifguide.fit_curvature(model, blocks, curvature=Curvature(strategy="identity"))
    direction = ifguide.make_direction(model, tokenizer, fitted, positive=POSITIVE, negative=NEGATIVE)
    scores = ifguide.score(model, blocks, {"rude": direction}, progress=False)["rude"]
    assert np.isfinite(scores).all() and scores.std() > 0
    assert model.training and model.dtype == torch.bfloat16 and tokenizer.backend_tokenizer.to_str() == state
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_data_set_and_an_export_have_the_mask(blocks, tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    scores = {"rude": rng.standard_normal(blocks.shape).astype(np.float32)}
    mask = ifguide.select(scores, blocks)
    dataset = ifguide.masked_dataset(blocks, mask, scores)
    assert dataset["mask"][:] == mask[:].tolist() and dataset["input_ids"][:] == blocks.tokens(slice(None)).tolist()
    documents = ifguide.masked_dataset(blocks, mask, scores, unit="document")
    assert documents["record"][:] == list(range(40))
    facts = ifguide.export(tmp_path / "new", blocks, mask, scores, tokenizer, unit="document")
    assert facts["rows"] == 40 and facts["selected"] == mask.count() and (tmp_path / "new/documents.jsonl").is_file()


def test_artifacts_are_opened(tmp_path):
    mask = np.random.default_rng(0).random((3, 13)) < 0.5
    packed = ifguide.masks.TokenMask.pack(mask)
    packed.save(tmp_path / "mask.npy")
    with pytest.raises(ValueError, match="not an artifact"):
        ifguide.masks.open(tmp_path)
    assert (ifguide.masks.open(tmp_path, 13)[:] == mask).all()
    (tmp_path / "manifest.json").write_text('{"stage": "mask", "fingerprint": "", "inputs": {}, "files": {}}')
    with pytest.raises(ValueError, match="give block_length"):
        ifguide.masks.open(tmp_path)
    (tmp_path / "manifest.json").write_text(
        '{"stage": "mask", "fingerprint": "", "inputs": {}, "files": {}, "facts": {"block_length": 13}}'
    )
    assert (ifguide.masks.open(str(tmp_path))[:] == mask).all()
    with pytest.raises(ValueError, match=r"no scores\.npy"):
        ifguide.scores.open(tmp_path)
    with create_scores(tmp_path, (2, 3, 4)) as scores:
        scores[:] = 1.5
    assert ifguide.scores.open(str(tmp_path)).shape == (2, 3, 4) and (ifguide.scores.open(tmp_path) == 1.5).all()
    with pytest.raises(ValueError, match=r"no mask\.npy"):
        ifguide.masks.open(tmp_path / "elsewhere")


def data(**columns):
    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    "dataset, options, message",
    [
        ([[1, 2]], {}, "it is a list; give one split"),
        (data(words=["a"]), {}, "columns words; `input_ids` or `text`"),
        (data(text=["a"]), {}, "needs a tokenizer and a block_length"),
        (data(text=["a", None]), {"block_length": 2, "own": True}, "`text` of row 1 is None"),
        (data(input_ids=[[1, 2], [3]]), {}, "row 1 has 1 tokens, the first 2; give block_length"),
        (data(input_ids=[[1, 2], [3]]), {"block_length": 4}, "block_length=4: the 3 tokens"),
        (data(input_ids=[[1]]), {}, "at least 2 tokens"),
        (data(input_ids=[]), {}, "at least 2 tokens"),
    ],
)
def test_data_that_is_no_blocks_is_refused(dataset, options, message, tokenizer):
    own = tokenizer if options.pop("own", False) else None
    with pytest.raises(ValueError, match=message):
        ifguide.make_blocks(dataset, own, **options)


@pytest.mark.parametrize(
    "positive, message",
    [
        ("an idiot", "positive: a list of texts"),
        ([], "positive: a list of texts"),
        (["a", 3], r"positive\[1\]=3: neither"),
        ([("a", "b", "c")], r"positive\[0\]=.*neither"),
        ([("a", " ")], "empty continuation"),
    ],
)
def test_queries_that_are_no_texts_are_refused(positive, message, model, tokenizer, fitted):
    with pytest.raises(ValueError, match=message):
        ifguide.make_direction(model, tokenizer, fitted, positive=positive, negative=NEGATIVE)


def test_other_mistakes_are_refused(model, tokenizer, blocks, direction):
    with pytest.raises(ValueError, match="directions: there are none"):
        ifguide.score(model, blocks, {})
    with pytest.raises(ValueError, match="that of rude was made with another model, which has nothing"):
        ifguide.score(model, blocks, {"rude": direction | {"nothing": torch.zeros(1)}})
    with pytest.raises(ValueError, match=r"influence\.dtype=bfloat16: FiniteDifference takes float32"):
        settings = ifguide.InfluenceSettings(dtype="bfloat16")
        ifguide.score(model, blocks, {"rude": direction}, scorer=ifguide.FiniteDifference(), influence=settings)
    long = data(input_ids=[list(range(100))])
    with pytest.raises(ValueError, match="block_length=100 is longer than the model's context of 64"):
        ifguide.fit_curvature(model, ifguide.make_blocks(long))
    with pytest.raises(ValueError, match="gives no offsets"):
        ifguide.make_blocks(data(text=["a"]), object(), block_length=2)


def test_the_package_is_imported_at_once_and_its_names_are_there():
    code = "import sys, ifguide; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in ifguide.__all__:
        assert getattr(ifguide, name).__doc__ and name in dir(ifguide)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ifguide.nothing
