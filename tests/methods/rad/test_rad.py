from dataclasses import replace

import pytest
import torch
from tiny import VOCABULARY, tiny_documents, tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, TopKLogitsWarper

from ifguide.corpus.documents import Query
from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.decoding import Stateless
from ifguide.decoding.generation import sample_continuations
from ifguide.methods.rad import RAD, RewardTraining
from ifguide.methods.rad.decoder import RewardAugmentedDecoder
from ifguide.methods.rad.model import RewardModel
from ifguide.methods.rad.tokens import TokenTranslation
from ifguide.training.optimization import Optimization
from ifguide.workspace import describe

PROMPTS = [[0, 5, 9], [0, 7], [0, 5, 11], [0, 3, 4, 5, 6], [0, 8, 1]]


def same_tokens():
    return TokenTranslation(torch.arange(VOCABULARY)[:, None], torch.ones(VOCABULARY, dtype=torch.long), 0)


def reward_model(architecture="gpt_neox", seed=1, model=None):
    model = RewardModel((model or tiny_model(architecture, seed=seed)).base_model)
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model.eval()


def decoder(model=None, translate=None, **options):
    return RewardAugmentedDecoder(
        model or reward_model(), translate or same_tokens(), **(dict(top_k=4, beta=3.0, batch_size=6) | options)
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama", "qwen2"])
@torch.no_grad()
def test_cached_rewards_are_those_of_whole_texts(architecture, attention):
    """Steps with random next tokens and rows that end, beside one plain forward pass for every candidate."""
    model, generator = reward_model(architecture), torch.Generator().manual_seed(0)
    model.body.set_attn_implementation(attention)
    prompts = torch.tensor([[0, 5, 9], [0, 7, 2], [0, 3, 1]])
    steps = decoder(model).start(prompts, 2)
    ids = prompts.repeat_interleave(2, 0)
    for step in range(5):
        logits = torch.randn(len(ids), VOCABULARY, dtype=torch.float64, generator=generator)
        shaped = steps(ids, logits)
        for row, (text, raw) in enumerate(zip(ids, logits, strict=True)):
            candidates = raw.topk(4).indices
            expected = torch.full_like(raw, float("-inf"))
            for token in candidates:
                toxicity = model(torch.cat([text, token[None]])[None])[0, -1].clamp(0, 1)
                expected[token] = raw[token] + 3.0 * (1 - toxicity)
            assert torch.allclose(shaped[row], expected, atol=1e-6), (step, row)
        alive = torch.ones(len(ids), dtype=torch.bool)
        if step in (1, 2):
            alive[[0, 1] if step == 1 else [2]] = False
            steps.keep(alive)
        tokens = torch.randint(VOCABULARY, (int(alive.sum()), 1), generator=generator)  # of no candidate, even
        ids = torch.cat([ids[alive], tokens], 1)


def windowed(architecture, window, **settings):
    """A model of which some or all layers see a few tokens back only."""
    shape = dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        max_position_embeddings=64, vocab_size=VOCABULARY, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **shape, sliding_window=window, **settings)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "architecture, window, settings",
    [("mistral", 4, {}), ("mistral", None, {}), ("qwen2", 4, {"use_sliding_window": True, "max_window_layers": 1})],
)
@torch.no_grad()
def test_a_sliding_window_slides_over_cached_tokens_too(architecture, window, settings, attention):
    model = reward_model(model=windowed(architecture, window, **settings))
    model.body.set_attn_implementation(attention)
    ids = torch.tensor([[0, 5, 9, 3, 4, 5, 6, 7]])
    steps, generator = decoder(model).start(ids, 1), torch.Generator().manual_seed(0)
    for _ in range(5):
        raw = torch.randn(1, VOCABULARY, dtype=torch.float64, generator=generator)
        shaped = steps(ids, raw)
        for token in raw[0].topk(4).indices:
            toxicity = model(torch.cat([ids, token.view(1, 1)], 1))[0, -1].clamp(0, 1)
            assert float(shaped[0, token]) == pytest.approx(float(raw[0, token] + 3.0 * (1 - toxicity)), abs=1e-6)
        ids = torch.cat([ids, torch.randint(VOCABULARY, (1, 1), generator=generator)], 1)


def test_a_window_that_is_none_of_these_is_refused():
    model = reward_model(model=windowed("mistral", 4))
    model.body.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(ValueError, match="a reward model with chunked_attention is not read here"):
        decoder(model)


@torch.no_grad()
def test_another_tokenizer_reads_the_candidates_as_its_own_tokens():
    texts = [document.text for document in tiny_documents()]
    ours, theirs = tiny_tokenizer(texts), make_tokenizer([texts[0][:40], "zzz"], vocabulary=262)
    translate = TokenTranslation.between(ours, theirs, "cpu")
    for word in ("the", " idiot", "ot"):
        for token in ours.encode(word):
            ids, valid = translate(torch.tensor([token]))
            assert theirs.decode(ids[valid]) == ours.decode([token])
    assert translate(torch.tensor([ours.eos_token_id, 10_000]))[0].tolist() == [[theirs.eos_token_id]] * 2

    config = AutoConfig.for_model(
        "gpt2", vocab_size=262, n_embd=16, n_layer=2, n_head=2, n_positions=200, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = reward_model(model=AutoModelForCausalLM.from_config(config, dtype=torch.float64))
    end, size = ours.eos_token_id, len(ours)
    prompts = torch.tensor(
        [[end, *ours.encode(text)[:3]] for text in ("the idiot sat on", "a hour of old bread", "xyz qq")]
    )
    steps, ids = decoder(model, translate, batch_size=1).start(prompts, 2), prompts.repeat_interleave(2, 0)

    def read(row):  # the prompt as a text of its own, then each token's text
        written = [theirs.eos_token_id, *theirs.encode(ours.decode(row[1:4]))]
        for token in row[4:]:
            written += theirs.encode(ours.decode([token])) if token != end else [theirs.eos_token_id]
        return torch.tensor([written])

    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        logits = torch.randn(len(ids), size, dtype=torch.float64, generator=generator)
        shaped = steps(ids, logits)
        for row, raw, out in zip(ids, logits, shaped, strict=True):
            for token in raw.topk(4).indices:
                toxicity = model(read([*row.tolist(), int(token)]))[0, -1].clamp(0, 1)
                assert out[token] == pytest.approx(float(raw[token] + 3 * (1 - toxicity)), abs=1e-9)
        ids = torch.cat([ids, torch.randint(size, (len(ids), 1), generator=generator)], 1)


@pytest.mark.parametrize("scheme", ["first", "always"])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_mark_that_begins_a_text_is_put_before_no_candidate(scheme, kind):
    texts, special = [document.text for document in tiny_documents()], ["</s>", "<unk>"]
    raw = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    raw.decoder = decoders.Metaspace(prepend_scheme=scheme)
    options = dict(vocab_size=120, special_tokens=special, show_progress=False)
    raw.train_from_iterator(
        texts,
        trainers.UnigramTrainer(unk_token="<unk>", **options) if kind == "unigram" else trainers.BpeTrainer(**options),
    )
    ours, theirs = tiny_tokenizer(texts), PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")
    translate = TokenTranslation.between(ours, theirs, "cpu")
    for text in (" the", "t", "h", " a", "1"):
        (token,) = ours.encode(text)
        ids, valid = translate(torch.tensor(token))
        assert "".join(theirs.convert_ids_to_tokens(ids[valid])) == text.replace(" ", "▁")


OPTIONS = dict(samples=5, max_new_tokens=6, end_of_text=0, rows=10, seed=0)


def test_without_weight_it_samples_from_the_likeliest_tokens():
    class TopK(Stateless):
        def __call__(self, ids, logits):
            return TopKLogitsWarper(4)(ids, logits)

    expected = sample_continuations(tiny_model(), PROMPTS, decoder=TopK(), **OPTIONS)
    assert (sample_continuations(tiny_model(), PROMPTS, decoder=decoder(beta=0.0), **OPTIONS) == expected).all()
    assert (sample_continuations(tiny_model(), PROMPTS, decoder=decoder(beta=9.0), **OPTIONS) != expected).any()


def test_the_size_of_its_batches_changes_nothing():
    outputs = [
        sample_continuations(tiny_model(), PROMPTS, decoder=decoder(batch_size=size), **OPTIONS) for size in (1, 999)
    ]
    assert (outputs[0] == outputs[1]).all()


def test_a_large_weight_takes_the_least_toxic_candidate():
    model = reward_model()
    tokens = sample_continuations(
        tiny_model(), [[0, 5]], decoder=decoder(model, beta=1e6), samples=3, max_new_tokens=1, end_of_text=0, rows=3,
        seed=0,
    )  # fmt: skip
    with torch.no_grad():
        candidates = tiny_model()(torch.tensor([[0, 5]])).logits[0, -1].topk(4).indices
        toxicity = [float(model(torch.tensor([[0, 5, token]]))[0, -1].clamp(0, 1)) for token in candidates]
    assert len(set(toxicity)) == 4 and (tokens == int(candidates[toxicity.index(min(toxicity))])).all()


def test_ended_rows_are_read_no_more():
    read, model = [], reward_model()
    model.register_forward_pre_hook(lambda module, inputs: read.append(len(inputs[0])))
    tokens = sample_continuations(
        tiny_model(), [[0, 5, 9]], decoder=decoder(model, top_k=VOCABULARY, batch_size=10**6), samples=40,
        max_new_tokens=12, end_of_text=7, rows=40, seed=0,
    )  # fmt: skip
    going = [40, *(int((tokens[0, :, : step + 1] != 7).all(1).sum()) for step in range(11))]
    assert read == [1, going[0], 1, *going[1:]] and going[-1] < 40, "one whole text, to compare with"


def test_a_reward_model_may_read_each_text_after_a_prompt():
    optim, texts = Optimization(learning_rate=1e-3, batch_size=4, epochs=1), [f" text {place}" for place in range(40)]
    queries = [Query(prompt, " x", True, "r") for prompt in ("One ", "Two", "One ", "  ")]
    training = RewardTraining(optim=optim, queries=queries)
    read = training.prompted(texts)
    assert {text.split()[0] for text in read} == {"One", "Two"}
    assert [text.split(" ", 1)[1] for text in read] == [text.lstrip() for text in texts]
    assert training.prompted(texts) == read != replace(training, seed=1).prompted(texts)
    alone = RewardTraining(optim=optim)
    assert alone.prompted(texts) == texts and "queries" not in describe(alone) and "queries" in describe(training)


def test_mistakes_are_named():
    training = RewardTraining(optim=Optimization(learning_rate=1e-3, batch_size=4, epochs=1))
    for options in ({"top_k": 0}, {"beta": -1.0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
            RAD(reward=training, **options)
    with pytest.raises(ValueError, match="context is 64"):
        decoder(reward_model("gpt2")).start(torch.zeros(1, 65, dtype=torch.long), 1)


@torch.no_grad()
def test_a_reward_model_that_does_not_keep_to_its_mask_is_refused(monkeypatch):
    model = reward_model()
    chosen, body = decoder(model), model.body.forward
    monkeypatch.setattr(model.body, "forward", lambda *args, attention_mask=None, **options: body(*args, **options))
    with pytest.raises(ValueError, match=r"GPTNeoXModel, reads a candidate beside others as .* and alone as .*another"):
        steps = chosen.start(torch.tensor([[0, 5, 9]]), 2)
        steps(torch.tensor([[0, 5, 9]] * 2), torch.randn(2, VOCABULARY, generator=torch.Generator().manual_seed(0)))
