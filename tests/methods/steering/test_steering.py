import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import ARCHITECTURES, tiny_model

from ifguide.corpus.documents import LabelledText
from ifguide.decoding import DecoderProcessor, ModelDecoder, ModelDecoding, Nucleus
from ifguide.decoding.cached import TRUSTED, NextLogits
from ifguide.decoding.generation import sample_continuations
from ifguide.methods.steering import Steering, SteeringDecoder, SteeringVector, steer
from ifguide.methods.steering.vector import block_outputs, difference_of_means
from ifguide.models import LoadOptions, ModelSettings, final_norm
from ifguide.training.context import TrainingContext
from ifguide.training.trainer import TrainerSettings

PROMPTS = [[0, 5, 9], [0, 7], [0, 5, 11], [0, 3, 4, 5, 6]]
OPTIONS = dict(samples=5, max_new_tokens=6, end_of_text=0, rows=10, seed=0)
TEXTS = [np.array(ids) for ids in ([0, 4, 9, 3], [0, 8], [0, 2, 2], [0, 50, 41, 7, 7, 1])]
TOXIC = np.array([True, False, True, False])


def vectors(size=16):
    return torch.randn(2, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def decoder(alpha=1.0, block=0, top_p=0.9):
    return SteeringDecoder(vectors(), block=block, alpha=alpha, nucleus=Nucleus(top_p=top_p))


@torch.no_grad()
def outputs_of(model, ids):
    with block_outputs(model) as outputs:
        logits = model(ids).logits
    return logits, torch.stack(outputs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_vectors_are_differences_of_means_at_the_last_token(architecture):
    """Batched and padded, beside one text at a time through the model's own list of hidden states."""
    model = tiny_model(architecture)
    found = difference_of_means(model, TEXTS, TOXIC, batch_size=3)
    states = [model(torch.tensor(ids)[None], output_hidden_states=True).hidden_states for ids in TEXTS]
    first = torch.stack([one[1][0, -1] for one in states])  # after block 0; the last of the list is behind the norm
    expected = first[torch.from_numpy(TOXIC)].mean(0) - first[torch.from_numpy(~TOXIC)].mean(0)
    assert found.shape == (2, 16) and torch.allclose(found[0], expected, atol=1e-9)
    last = torch.stack([outputs_of(model, torch.tensor(ids)[None])[1][1, 0, -1] for ids in TEXTS])
    assert torch.allclose(final_norm(model)(last[0]), states[0][-1][0, -1], atol=1e-9)
    assert torch.allclose(found[1], last[[0, 2]].mean(0) - last[[1, 3]].mean(0), atol=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_hidden_states_are_moved_after_one_block(architecture, blocks):
    model, shift = tiny_model(architecture), 1.5 * vectors()[0]
    plain, states = outputs_of(model, blocks)
    with steer(model, shift, block=1):
        steered, moved = outputs_of(model, blocks)
    assert torch.allclose(moved[1], states[1] - shift) and torch.equal(moved[0], states[0])
    expected = model.get_output_embeddings()(final_norm(model)(states[1] - shift))
    assert torch.allclose(steered, expected, atol=1e-6) and not torch.allclose(steered, plain, atol=1e-3)
    with steer(model, shift, block=0):
        _, moved = outputs_of(model, blocks)
    assert torch.allclose(moved[0], states[0] - shift) and not torch.allclose(moved[1], states[1], atol=1e-3)
    with pytest.raises(RuntimeError), steer(model, shift, block=0):
        raise RuntimeError
    assert torch.equal(model(blocks).logits, plain), "nothing is left on the model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_without_weight_it_is_the_base_bit_for_bit(dtype, blocks):
    model = tiny_model(dtype=dtype)
    plain = model(blocks).logits
    with decoder(alpha=0.0).attach(model):
        assert torch.equal(model(blocks).logits, plain)
    expected = sample_continuations(tiny_model(), PROMPTS, decoder=Nucleus(top_p=0.9), **OPTIONS)
    assert (sample_continuations(tiny_model(), PROMPTS, decoder=decoder(alpha=0.0), **OPTIONS) == expected).all()
    assert (sample_continuations(tiny_model(), PROMPTS, decoder=decoder(alpha=2.0), **OPTIONS) != expected).any()


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
@torch.no_grad()
def test_a_cache_holds_what_the_whole_text_gives(architecture):
    cached, whole = tiny_model(architecture), tiny_model(architecture)
    TRUSTED[whole] = False
    options = {**OPTIONS, "decoder": decoder(alpha=2.0, top_p=1.0)}
    ours, theirs = (sample_continuations(model, PROMPTS, **options) for model in (cached, whole))
    assert TRUSTED[cached] and (ours == theirs).all()
    ids = torch.tensor(PROMPTS[:1])
    with decoder(alpha=2.0).attach(cached):
        read = NextLogits(cached, ids, 1)
        for token in (4, 9, 33):
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
            assert torch.allclose(read(ids), cached(ids, use_cache=False).logits[:, -1], atol=1e-6)


@torch.no_grad()
def test_generate_of_transformers_is_steered_too():
    model, prompts, seen = tiny_model(), torch.tensor([[0, 5, 9], [0, 7, 2]]), []

    class Watched(DecoderProcessor):
        def __call__(self, input_ids, scores):
            seen.append((input_ids, scores.clone()))
            return super().__call__(input_ids, scores)

    ours = decoder(alpha=2.0)
    with ours.attach(model):
        options = dict(do_sample=True, top_k=0, max_new_tokens=4, pad_token_id=0, eos_token_id=None)
        model.generate(prompts, attention_mask=torch.ones_like(prompts), logits_processor=[Watched(ours)], **options)
        expected = [model(ids, use_cache=False).logits[:, -1] for ids, _ in seen]
    assert len(seen) == 4
    assert all(
        torch.allclose(logits, whole.to(logits), atol=1e-5) for (_, logits), whole in zip(seen, expected, strict=True)
    )


def test_vectors_are_an_artifact_of_labelled_texts(corpus, tmp_path):
    settings = ModelSettings(architecture="gpt_neox", settings=ARCHITECTURES["gpt_neox"])
    model = settings.build(corpus.vocabulary, corpus.end_of_text).eval()
    model.save_pretrained(tmp_path / "model")
    texts = [LabelledText("the cat sat", 0.0), LabelledText("one idiot", 1.0), LabelledText("old bread " * 20, 0.0)]
    facts = SteeringVector().train(
        tmp_path / "model", texts, tokenizer=corpus.tokenizer, block_length=16,
        context=TrainingContext(TrainerSettings(), tmp_path), options=LoadOptions(),
    )  # fmt: skip
    assert facts == {"toxic": 1, "nontoxic": 2}
    encoded = [np.array([corpus.end_of_text, *corpus.tokenizer.encode(one.text)])[:16] for one in texts]
    expected = difference_of_means(model, encoded, np.array([False, True, False]), batch_size=1)
    assert torch.allclose(load_file(tmp_path / "steering.safetensors")["vectors"].double(), expected, atol=1e-5)
    chosen = Steering(vector=SteeringVector(), alpha=0.5)
    assert isinstance(chosen, ModelDecoding) and list(chosen.auxiliaries) == ["vector"]
    made = chosen.load({"vector": tmp_path}, corpus.tokenizer, "cpu", LoadOptions())
    assert isinstance(made, ModelDecoder) and not isinstance(Nucleus(), ModelDecoder) and made.block == 1
    assert SteeringDecoder.open(tmp_path, block=0).block == 0


def test_mistakes_are_named():
    for options in ({"block": -1}, {"alpha": float("inf")}, {"top_p": 0.0}, {"temperature": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
            Steering(vector=SteeringVector(), **options)
    with pytest.raises(ValueError, match=r"^block=2: the model has 2 decoder blocks, from 0 to 1"):
        Steering(vector=SteeringVector(), block=2).check_model(tiny_model().config)
    Steering(vector=SteeringVector(), block=1).check_model(tiny_model().config)
    with pytest.raises(ValueError, match="both kinds are needed"):
        SteeringVector().check([LabelledText("a", 1.0)])
