import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, VOCABULARY, tiny_model
from transformers import AutoModelForCausalLM

from ifguide.corpus.control_tokens import named_tokenizer
from ifguide.corpus.documents import Prompt
from ifguide.corpus.labelled import pack_texts
from ifguide.decoding import Nucleus
from ifguide.decoding.base import frame_of
from ifguide.decoding.generation import encode_prompts, sample_continuations
from ifguide.evaluation.fluency import block_losses, document_losses
from ifguide.methods.conditional import Conditional, ConditionalDecoder, add_control_tokens
from ifguide.models import LoadOptions, ModelSettings

CONTROL = [7, 31]
OPTIONS = dict(samples=5, max_new_tokens=6, end_of_text=0, rows=1000, seed=0)


def decoder(top_p=1.0):
    return ConditionalDecoder(CONTROL, prefix=CONTROL[:1], nucleus=Nucleus(top_p=top_p))


def eager_model(architecture="gpt_neox"):
    """A model that would write control tokens only."""
    model = tiny_model(architecture)
    raised = torch.zeros(VOCABULARY, dtype=torch.float64)
    raised[CONTROL] = 1e3
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: output + raised)
    return model


@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_no_control_token_is_ever_written(top_p):
    prompts = [[0, 7, token] for token in range(VOCABULARY)]  # every token once is the last
    written = sample_continuations(eager_model(), prompts, decoder=decoder(top_p), **OPTIONS)
    assert not np.isin(written, CONTROL).any()
    without = sample_continuations(eager_model(), prompts[:4], decoder=Nucleus(top_p=top_p), **OPTIONS)
    assert np.isin(without, CONTROL).all()


def test_all_other_tokens_keep_their_odds():
    logits = torch.randn(4, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = logits.clone()
    found = decoder().start(torch.zeros(4, 2), 1)(torch.zeros(4, 2), logits).softmax(-1)
    others = [token for token in range(VOCABULARY) if token not in CONTROL]
    expected = logits.softmax(-1)[:, others]
    assert torch.allclose(found[:, others], expected / expected.sum(1, keepdim=True)) and torch.equal(logits, given)
    assert (found[:, CONTROL] == 0).all()


def test_prompts_begin_with_the_token_and_keep_it_where_they_are_cut(corpus):
    prompts = [Prompt("the cat sat", "all", "0"), Prompt("", "all", "1")]
    plain = encode_prompts(prompts, corpus.tokenizer, 50)
    assert encode_prompts(prompts, corpus.tokenizer, 50, prefix=[99]) == [[ids[0], 99, *ids[1:]] for ids in plain]
    (cut, _) = encode_prompts(prompts, corpus.tokenizer, 3, prefix=[99])
    assert cut == [plain[0][0], 99, plain[0][-1]]


def test_prompts_end_with_the_token_and_keep_it_where_they_are_cut(corpus):
    prompts = [Prompt("the cat sat", "all", "0"), Prompt("", "all", "1")]
    plain = encode_prompts(prompts, corpus.tokenizer, 50)
    assert encode_prompts(prompts, corpus.tokenizer, 50, suffix=[99]) == [[*ids, 99] for ids in plain]
    (cut, _) = encode_prompts(prompts, corpus.tokenizer, 3, suffix=[99])
    assert cut == [plain[0][0], plain[0][-1], 99]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "vocabulary, ids", [(60, [60, 61]), (58, [58, 59]), (60, [3, 5])], ids=["grown", "spare", "known"]
)
@torch.no_grad()
def test_a_model_gets_rows_for_control_tokens_and_is_otherwise_what_it_was(
    architecture, vocabulary, ids, blocks, tmp_path
):
    before, model = tiny_model(architecture), tiny_model(architecture)
    blocks = blocks.clamp(max=vocabulary - 1)
    state = torch.get_rng_state()
    add_control_tokens(model, ids, vocabulary=vocabulary)
    assert torch.equal(state, torch.get_rng_state())
    rows = len(model.get_input_embeddings().weight)
    assert rows == model.config.vocab_size == (VOCABULARY if max(ids) < VOCABULARY else 64)
    ours, theirs = model(blocks).logits, before(blocks).logits
    assert torch.equal(ours[..., :vocabulary], theirs[..., :vocabulary])
    if ids[0] == vocabulary:
        mean = theirs[..., :vocabulary].mean(-1, keepdim=True)
        assert torch.allclose(ours[..., ids], mean.expand(-1, -1, 2), atol=1e-9)
        mean = before.get_input_embeddings().weight[:vocabulary].mean(0)
        assert torch.allclose(model.get_input_embeddings().weight[ids], mean.expand(2, -1))
    else:
        assert torch.equal(ours, theirs), "tokens that are known stay what they are"
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert torch.allclose(loaded(blocks).logits, ours, atol=1e-6)
    loaded.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: output + 1e3 * torch.isin(torch.arange(rows), torch.tensor(ids))
    )
    written = loaded.generate(blocks, do_sample=True, max_new_tokens=5, pad_token_id=0)[:, blocks.shape[1] :]
    assert not torch.isin(written, torch.tensor(ids)).any(), "`generate` of transformers writes none either"


def test_a_new_model_has_the_weights_of_its_seed():
    settings = ModelSettings(architecture="gpt_neox", settings=ARCHITECTURES["gpt_neox"], seed=3)
    plain, ours = settings.build(64, 0), settings.build(64, 0)
    add_control_tokens(ours, [64, 65], vocabulary=64)
    shapes = [name for name, value in plain.named_parameters() if value.shape == (64, 16)]
    assert len(shapes) == 2
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name][: len(value)], value), name


@torch.no_grad()
def test_perplexity_is_that_of_a_model_that_writes_no_control_token(corpus):
    """Beside a loop over tokens whose distribution has no share of theirs."""
    settings = ModelSettings(architecture="gpt_neox", settings=ARCHITECTURES["gpt_neox"])
    model = settings.build(corpus.vocabulary, 0).double().eval()
    split = pack_texts(["the cat sat on a mat", "and saw one", "old bread in an hour"], corpus.tokenizer, 8)
    common = np.unique(split.tokens(slice(0, len(split))), return_counts=True)
    never = [int(common[0][common[1].argmax()]), corpus.vocabulary - 1]
    losses = block_losses(model, split, batch_size=2, never=never)
    none = document_losses(np.zeros((0, 8), np.float32), pack_texts([], corpus.tokenizer, 8), never=never)
    assert len(none.tokens) == 0, "a split without a block"
    found = document_losses(losses, split, never=never)
    sums, counts = np.zeros(len(split.documents)), np.zeros(len(split.documents))
    for block, ids in enumerate(split.tokens(slice(0, len(split)))):
        for place in range(1, 8):
            if ids[place] in never:
                assert losses[block, place] == 0
                continue
            probabilities = model(torch.tensor(ids[None, :place])).logits[0, -1].softmax(-1)
            share = probabilities[ids[place]] / (1 - probabilities[never].sum())
            assert losses[block, place] == pytest.approx(-float(share.log()), abs=1e-5)
            owner = split.documents_of(np.array([block * 8 + place]))[0]
            sums[owner], counts[owner] = sums[owner] - float(share.log()), counts[owner] + 1
    assert (
        np.allclose(found.losses, sums, atol=1e-4)
        and (found.tokens == counts).all()
        and (losses == 0).sum() > len(split)
    )


def test_settings_and_what_is_not_there(corpus):
    with pytest.raises(ValueError, match=r"^kind=fine: known: good, bad"):
        Conditional(kind="fine")
    with pytest.raises(ValueError, match=r"^place=end: known: continuation, prompt"):
        Conditional(place="end")
    with pytest.raises(ValueError, match=r"^top_p=0"):
        Conditional(top_p=0)
    with pytest.raises(ValueError, match=r"^kind=good: the tokenizer has no control tokens"):
        Conditional().load({}, corpus.tokenizer, "cpu", LoadOptions())


@pytest.mark.parametrize("place, frame", [("continuation", ([], [5])), ("prompt", ([5], []))])
def test_the_token_stands_where_it_is_asked_for(place, frame, corpus, tmp_path):
    tokenizer = named_tokenizer(corpus.path / "tokenizer", "<|good|>", "<|bad|>")
    good = tokenizer.good_token_id
    decoder = Conditional(place=place).load({}, tokenizer, "cpu", LoadOptions())
    assert frame_of(decoder) == tuple([good] if part else [] for part in frame)
    bad = Conditional(place=place, kind="bad").load({}, tokenizer, "cpu", LoadOptions())
    assert frame_of(bad) == tuple([tokenizer.bad_token_id] if part else [] for part in frame)
    assert frame_of(Nucleus()) == ((), ())
