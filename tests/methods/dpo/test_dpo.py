import json
from functools import partial
from math import log

import numpy as np
import pytest
import torch
from rows import Row
from tiny import loss_and_gradients

from ifguide.corpus.documents import Pair, Prompt
from ifguide.corpus.pairs import check_pairs, check_pairs_disjoint, encode_pairs, local_pairs
from ifguide.methods.dpo import DPO, reference_log_probabilities
from ifguide.methods.dpo.pairs import PairExamples, pair_log_probabilities
from ifguide.methods.dpo.training import PreferenceModule, SimplePreferenceModule
from ifguide.objectives import linear_head
from ifguide.training.context import TrainingContext
from ifguide.training.data import hold_out
from ifguide.training.optimization import Optimization
from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import describe

CPU = TrainerSettings(micro_batch_size=4, checkpoint_every=2, precision="64-true", progress=False)
PAIRS = [Pair("" if n % 3 == 0 else "the cat sat", f" on {n} old mats", f" idiot ate {n}") for n in range(30)]


def optimization(**options):
    return Optimization(**(dict(learning_rate=3e-3, batch_size=8, epochs=4) | options))


def wide_model(corpus, dropout=0.0):
    from ifguide.models import ModelSettings

    settings = dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, hidden_dropout=dropout
    )
    return ModelSettings(architecture="gpt_neox", settings=settings).build(corpus.vocabulary, None).double()


def moved(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def pairs(corpus):
    return encode_pairs(PAIRS, corpus.tokenizer, 64)


def test_pairs_know_their_responses(corpus, pairs):
    for pair, encoded in zip(PAIRS, pairs, strict=True):
        for half, text in enumerate((pair.chosen, pair.rejected)):
            ids, response = encoded.input_ids[half], encoded.response[half]
            assert corpus.tokenizer.decode(ids[response]) == text
            assert corpus.tokenizer.decode(ids[~response]) == corpus.tokenizer.eos_token + pair.prompt


def test_long_pairs_keep_one_prompt_and_the_beginnings_of_their_responses(corpus):
    """40 tokens: half for the prompt; more, where both responses leave it; all but the prompt, where that is short."""
    encode, decode = corpus.tokenizer.encode, corpus.tokenizer.decode
    a, the = encode(" a"), encode(" the")
    assert len(a) == len(the) == 1
    for count, lengths, kept in ((100, (50, 30), (20, 20, 20)), (100, (10, 5), (30, 10, 5)), (4, (99, 9), (5, 35, 9))):
        pair = Pair(" mat" * count, " a" * lengths[0], " the" * lengths[1])
        (cut,) = encode_pairs([pair], corpus.tokenizer, 40)
        prompt = [corpus.tokenizer.eos_token_id, *encode(pair.prompt)[1 - kept[0] :]]
        for half, token in enumerate((a, the)):
            assert cut.input_ids[half].tolist() == prompt + token * kept[1 + half], decode(cut.input_ids[half])
            assert cut.response[half].tolist() == [False] * kept[0] + [True] * kept[1 + half]


def test_pairs_that_differ_beyond_what_is_read_are_left_out(corpus):
    late = Pair("the cat", " sat" * 50 + " on", " sat" * 50 + " idiot")
    assert len(encode_pairs([late, *PAIRS[:2], late], corpus.tokenizer, 40)) == 2
    with pytest.raises(ValueError, match=r"^max_length=40: within so many tokens no pair"):
        encode_pairs([late], corpus.tokenizer, 40)


def test_what_a_response_changes_of_its_prompt_belongs_to_the_response(corpus):
    (pair,) = encode_pairs([Pair("cat sat on th", "e mat", "umb")], corpus.tokenizer, 40)
    texts = [corpus.tokenizer.decode(pair.input_ids[half][pair.response[half]]) for half in (0, 1)]
    assert texts == [" the mat", " thumb"]
    shared = [pair.input_ids[half][~pair.response[half]].tolist() for half in (0, 1)]
    assert shared[0] == shared[1]


def test_the_loss_at_the_reference_is_log_two_whatever_the_divergence_weighs(corpus, pairs):
    model = wide_model(corpus)
    reference = reference_log_probabilities(model, pairs, batch_size=7)
    alone = np.concatenate([reference_log_probabilities(model, [pair], batch_size=1) for pair in pairs])
    assert np.allclose(reference, alone, atol=1e-4), "padding counts"
    batch = PairExamples(pairs, reference)[np.arange(30)]
    for kl in (0.0, 0.5):
        module = PreferenceModule(model, wide_model(corpus), optimization(), beta=0.1, kl=kl, steps=1, seed=0)
        assert float(module.loss(batch)) == pytest.approx(log(2), abs=1e-6)


@pytest.mark.parametrize("precision, dtype", [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_the_reference_is_rounded_as_the_policy_is(precision, dtype, corpus, pairs):
    """Or the margin at the reference's own weights would be rounding."""
    some = pairs[:6]
    reference = reference_log_probabilities(wide_model(corpus), some, batch_size=6, precision=precision)
    batch = PairExamples(some, reference)[np.arange(6)]
    policy = wide_model(corpus).to(dtype)
    with torch.no_grad():
        found = pair_log_probabilities(policy(input_ids=batch["input_ids"]).logits, batch)
    assert float((found - batch["reference"]).abs().max()) < 1e-4


def test_the_loss_is_that_of_texts_read_one_by_one(corpus, pairs):
    policy, reference = moved(wide_model(corpus), 1), wide_model(corpus)
    batch = PairExamples(pairs, reference_log_probabilities(reference, pairs, batch_size=4))[np.array([3, 0, 7])]
    loss = PreferenceModule(policy, reference, optimization(), beta=0.2, kl=0.05, steps=1, seed=0).loss(batch)
    expected = 0.0
    with torch.no_grad():
        for n in (3, 0, 7):
            margin, divergence = 0.0, 0.0
            for half, sign in ((0, 1), (1, -1)):
                ids, counted = torch.tensor(pairs[n].input_ids[half]), np.flatnonzero(pairs[n].response[half])
                ours, theirs = (model(ids[None]).logits[0].log_softmax(-1) for model in (policy, reference))
                margin += sign * sum(float(ours[t - 1, ids[t]] - theirs[t - 1, ids[t]]) for t in counted)
                divergence += np.mean([float((theirs[t - 1].exp() * (theirs - ours)[t - 1]).sum()) for t in counted])
            expected += (-np.log(1 / (1 + np.exp(-0.2 * margin))) + 0.05 * divergence) / 3
    assert float(loss) == pytest.approx(expected, abs=1e-5)


def preference(policy, reference, **options):
    return PreferenceModule(policy, reference, optimization(), beta=0.2, steps=1, seed=0, **options)


def simple(policy, reference, **options):
    return SimplePreferenceModule(policy, optimization(), beta=2.5, margin=0.7, steps=1, seed=0, **options)


@pytest.mark.parametrize("make", [partial(preference, kl=0.0), partial(preference, kl=0.3), simple])
def test_losses_and_gradients_are_the_same_in_chunks(corpus, pairs, monkeypatch, make):
    """Chosen and rejected responses, the divergence from the reference, and what that says of pairs."""
    monkeypatch.setattr(linear_head, "CHUNK_TOKENS", 3)
    monkeypatch.setattr(linear_head, "CHUNK_LOGITS", {"cpu": 1})
    reference, found = moved(wide_model(corpus), 2), []
    for fused in (True, False):
        said = reference_log_probabilities(reference, pairs, batch_size=4, fused=fused)
        batch = PairExamples(pairs, said)[np.array([3, 0, 7])]
        found.append(loss_and_gradients(make(moved(wide_model(corpus), 1), reference, fused=fused), batch))
    ours, expected = found
    assert expected["loss"] > 0.1 and len(ours) > 20
    for name, value in expected.items():
        assert torch.allclose(ours[name], value, rtol=1e-6, atol=1e-9), name


def mean_log_probability(model, pair, half):
    """Of a response's tokens, the text read alone."""
    ids, places = torch.tensor(pair.input_ids[half]), np.flatnonzero(pair.response[half])
    with torch.no_grad():
        read = model(ids[None]).logits[0].log_softmax(-1)
    return float(np.mean([float(read[t - 1, ids[t]]) for t in places]))


def simpo_loss(model, pairs, beta, margin):
    """SimPO's loss of pairs that are read one by one."""
    margins = [
        beta * (mean_log_probability(model, pair, 0) - mean_log_probability(model, pair, 1)) - margin for pair in pairs
    ]
    return float(np.log1p(np.exp(-np.array(margins))).mean())


def test_the_loss_of_simpo_is_that_of_texts_read_one_by_one(corpus, pairs):
    model = wide_model(corpus)
    some = [pairs[n] for n in (3, 0, 7)]
    module = SimplePreferenceModule(model, optimization(), beta=2.5, margin=0.7, steps=1, seed=0)
    loss = module.loss(PairExamples(pairs)[np.array([3, 0, 7])])
    assert float(loss) == pytest.approx(simpo_loss(model, some, 2.5, 0.7), abs=1e-6)


def test_simpo_trains_without_a_reference_from_the_loss_of_its_start(corpus, pairs, tmp_path):
    held = [pairs[row] for row in hold_out(30, 0.1, 0)[1]]
    settings = dict(beta=2.0, reference=False, margin=0.5, validate_every=2, patience=50)
    model = wide_model(corpus)
    before = simpo_loss(model, pairs, 2.0, 0.5)
    facts = DPO(optim=optimization(), **settings).train(model, None, pairs, None, TrainingContext(CPU, tmp_path / "a"))
    assert simpo_loss(model, pairs, 2.0, 0.5) < before
    assert facts["validation/loss"] == pytest.approx(simpo_loss(model, held, 2.0, 0.5), abs=1e-5)
    still = DPO(optim=optimization(learning_rate=1e-12), **settings)
    with pytest.warns(UserWarning, match="training changed nothing"):
        facts = still.train(wide_model(corpus), None, pairs, None, TrainingContext(CPU, tmp_path / "b"))
    assert facts["validation/loss"] == pytest.approx(simpo_loss(wide_model(corpus), held, 2.0, 0.5), abs=1e-5)


def test_simpo_is_in_no_older_fingerprint():
    assert not {"reference", "margin"} & set(describe(DPO(optim=optimization())))
    assert describe(DPO(optim=optimization(), reference=False))["reference"] is False


def test_simpo_has_no_reference_so_its_pairs_decide_it(tmp_path):
    def roles(*overrides):
        return Row(tmp_path, "stage=model", *overrides).plan.roles

    simpo, fewer, dpo = roles("method=simpo"), roles("method=simpo", "pairs.size=50"), roles("method=dpo")
    assert set(dpo) - set(simpo) == {"reference"} and simpo["trained"].fingerprint == dpo["trained"].fingerprint
    assert len({made["model"].fingerprint for made in (simpo, fewer, dpo)}) == 3
    assert "pairs" not in dpo["model"].settings


def train(corpus, pairs, directory, dpo, model=None):
    model = model or wide_model(corpus)
    reference = reference_log_probabilities(model, pairs, batch_size=8)
    facts = dpo.train(model, wide_model(corpus), pairs, reference, TrainingContext(CPU, directory))
    return model, reference, facts


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_chosen_responses_become_likelier_than_rejected_ones(corpus, pairs, tmp_path, kl):
    dpo = DPO(optim=optimization(), kl=kl, validate_every=2, patience=50)
    model, before, facts = train(corpus, pairs, tmp_path, dpo)
    gained = reference_log_probabilities(model, pairs, batch_size=8) - before
    assert (gained[:, 0] > gained[:, 1]).mean() > 0.9
    assert facts["validation/loss"] < log(2) and facts["pairs"] == 27


def test_it_stops_when_validation_does_and_keeps_what_nothing_was_better_than(corpus, tmp_path):
    """Pairs whose held-out half contradicts the trained one: nothing beats the reference."""
    flip = DPO(optim=optimization(learning_rate=1e-2, epochs=40), validate_every=1, patience=3, validation=0.5)
    held = set(hold_out(30, 0.5, 0)[1].tolist())
    texts = [Pair("the cat", *([" on old mats", " idiot ate"] if n in held else [" idiot ate", " on old mats"]))
             for n in range(30)]  # fmt: skip
    encoded = encode_pairs(texts, corpus.tokenizer, 64)
    with pytest.warns(UserWarning, match="no validation loss was below 0.6931"):
        model, _, facts = train(corpus, encoded, tmp_path, flip)
    assert facts["steps"] == 3 and facts["validation/loss"] == log(2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), wide_model(corpus).parameters(), strict=True))


def test_the_last_step_is_validated_and_may_be_the_best(corpus, pairs, tmp_path):
    dpo = DPO(optim=optimization(epochs=2), validate_every=4, patience=1)  # 7 steps
    model, before, facts = train(corpus, pairs, tmp_path / "last", dpo)
    rows = hold_out(30, 0.1, 0)[1]
    margins = np.diff(reference_log_probabilities(model, pairs, batch_size=8) - before)[rows]
    assert facts["steps"] == 7 and facts["validation/loss"] == pytest.approx(np.log1p(np.exp(0.1 * margins)).mean())


def test_an_interrupted_run_resumes_exactly(corpus, pairs, tmp_path, monkeypatch):
    dpo = DPO(optim=optimization(epochs=2), validate_every=2, patience=50)
    whole, _, _ = train(corpus, pairs, tmp_path / "whole", dpo, wide_model(corpus, dropout=0.2))
    original, calls = PreferenceModule.training_step, []

    def fail(self, batch, index):
        calls.append(index)
        if len(calls) == 9:
            raise RuntimeError("killed")
        return original(self, batch, index)

    monkeypatch.setattr(PreferenceModule, "training_step", fail)
    with pytest.raises(RuntimeError, match="killed"):
        train(corpus, pairs, tmp_path / "broken", dpo, wide_model(corpus, dropout=0.2))
    resumed, _, _ = train(corpus, pairs, tmp_path / "broken", dpo, wide_model(corpus, dropout=0.2))
    assert calls[9] > 0, "it began again"
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_mistakes_are_named(tmp_path):
    for options in ({"beta": 0.0}, {"kl": -1.0}, {"patience": 0}, {"validation": 1.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
            DPO(optim=optimization(), **options)
    for options, name in (({"margin": 0.5}, "margin"), ({"reference": False, "kl": 0.1}, "kl")):
        with pytest.raises(ValueError, match=f"^{name}=.*reference=false"):
            DPO(optim=optimization(), **options)
    with pytest.raises(ValueError, match="no pair"):
        check_pairs([])
    with pytest.raises(ValueError, match="number 1"):
        check_pairs([Pair("", "a", "b"), Pair("p", "same", "same")])
    prompts = [Prompt("the cat", "x", "first"), Prompt("", "x", "empty")]
    check_pairs_disjoint([Pair("", "another", "b"), Pair("the", " dog", " cow")], prompts)
    for pair in (Pair("the cat", " a", " b"), Pair("", "the cat sat", "b"), Pair("the", " dog", " cat sat")):
        with pytest.raises(ValueError, match="also in the texts of `pairs`"):
            check_pairs_disjoint([*PAIRS[:1], pair], prompts)


def test_files_without_a_pair_are_named(tmp_path):
    (file := tmp_path / "p.jsonl").write_text(json.dumps({"chosen": "a", "rejected": "a"}))
    with pytest.raises(ValueError, match=rf"^files={file}: none of 1 records has two continuations that differ$"):
        local_pairs(files=str(file), prompt=None)


def test_local_pairs_may_lack_a_prompt(datasets_folder):
    file = datasets_folder / "preference_pairs" / "paradetox.jsonl.gz"
    if not file.exists():
        pytest.skip("ParaDetox is not here")
    found = local_pairs(files=str(file), prompt=None, chosen="neutral1", rejected="toxic")
    check_pairs(found)  # some sentences were not changed by anybody: these are no pairs
    assert len(found) > 11_000 and all(pair.prompt == "" for pair in found)
    assert local_pairs(files=str(file), prompt=None, chosen="neutral1", rejected="toxic", limit=50) == found[:50]


def test_records_without_two_different_continuations_are_no_pairs(tmp_path, caplog):
    rows = [("a", "b"), ("same", "same"), ("", "b"), ("a", ""), ("c", "d")]
    lines = [json.dumps({"prompt": "", "chosen": chosen, "rejected": rejected}) for chosen, rejected in rows]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    found = local_pairs(files=str(tmp_path / "pairs.jsonl"), limit=2)
    assert "3 records without two continuations that differ are left out" in caplog.text
    assert found == [Pair("", "a", "b"), Pair("", "c", "d")]


def test_a_prompt_may_be_null_and_every_other_field_is_a_text(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": null, "chosen": "a", "rejected": "b"}\n')
    assert local_pairs(files=str(tmp_path / "pairs.jsonl")) == [Pair("", "a", "b")]
    for field, value, kind in (("prompt", ["x"], "a list"), ("chosen", ["x"], "a list"), ("rejected", None, "null")):
        record = {"prompt": "p", "chosen": "a", "rejected": "b"} | {field: value}
        (tmp_path / "pairs.jsonl").write_text("\n" + json.dumps(record))
        with pytest.raises(ValueError, match=rf"pairs\.jsonl:2: `{field}` is {kind}"):
            local_pairs(files=str(tmp_path / "pairs.jsonl"))
