"""A model that was trained elsewhere reads a text after its own beginning-of-text token, one of ours after the end of
another text; each against a computation by hand."""

import json

import numpy as np
import pytest
import torch
from tiny import WORDS, tiny_documents, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import build_corpus
from ifguide.corpus.documents import LabelledText, Pair, Prompt, Query
from ifguide.corpus.labelled import encode_texts
from ifguide.corpus.pairs import encode_pairs
from ifguide.corpus.queries import encode_queries
from ifguide.corpus.tokenizers import beginning_of_text, last_tokens, make_tokenizer
from ifguide.decoding.generation import decode_continuations, encode_prompts
from ifguide.evaluation.fluency import generation_perplexity
from ifguide.evaluation.judge import answer_log_odds
from ifguide.evaluation.lambada import Lambada
from ifguide.evaluation.logit_lens import LogitLens
from ifguide.evaluation.probe import mean_hidden_states
from ifguide.evaluation.suffix_attack import SuffixAttack
from ifguide.methods.dpo import reference_log_probabilities
from ifguide.methods.dpo.pairs import PairExamples
from ifguide.methods.rad import RAD, RewardTraining
from ifguide.methods.rad.tokens import TokenTranslation
from ifguide.models import LoadOptions, ModelSettings, load_model
from ifguide.training.context import TrainingContext
from ifguide.training.optimization import Optimization
from ifguide.training.trainer import TrainerSettings

START, END = 1, 2
LLAMA = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
    max_position_embeddings=64, vocab_size=128,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """As Llama's: blanks are marks, the first of a text is dropped, and a text does not begin with what ends it."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    inner.train_from_iterator([" ".join(WORDS), "A B : 0 1 2 3 4 5 6 7 8 9"] * 20, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return make_tokenizer((), path=str(folder))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **LLAMA, bos_token_id=START, eos_token_id=END, initializer_range=0.5)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()


def ids_of(text, tokenizer):
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


@torch.no_grad()
def loss_of(model, tokenizer, prompt, continuation):
    """−log p(continuation | <s> prompt), one token after the other."""
    before, ids = ids_of(prompt, tokenizer), ids_of(prompt + continuation, tokenizer)
    assert ids[: len(before)] == before
    logs = model(torch.tensor([[START, *ids]])).logits[0].log_softmax(-1)
    return -sum(float(logs[place, ids[place]]) for place in range(len(before), len(ids)))


def test_the_token_is_the_models_own(tokenizer, model):
    assert beginning_of_text(tokenizer) == beginning_of_text(tokenizer, model.config) == START
    new = ModelSettings(architecture="llama", settings={**LLAMA, "vocab_size": None}).build(128, tokenizer.eos_token_id)
    assert beginning_of_text(tokenizer, new.config) == END, "it has seen texts after the end of others only"
    ours = tiny_tokenizer(["one text"])
    assert beginning_of_text(ours) == beginning_of_text(ours, model.config) == ours.eos_token_id


def test_documents_in_blocks_are_as_ever(tokenizer, tmp_path):
    build_corpus(
        tmp_path, sources={"tiny": tiny_documents()}, tokenizer=lambda texts: tokenizer, block_length=16,
        validation=0.1, test=0.1,
    )  # fmt: skip
    tokens = Corpus(tmp_path).split("train").tokens(slice(None))
    assert START not in tokens and END in tokens
    assert beginning_of_text(Corpus(tmp_path).tokenizer) == START


def test_what_is_encoded_begins_with_it(tokenizer, model):
    config = AutoConfig.for_model("llama", **LLAMA, bos_token_id=END, eos_token_id=END)
    for given, first in ((None, START), (model.config, START), (config, END)):
        encoded = [
            encode_queries([Query("the cat", " sat", True, "")], tokenizer, config=given)[0].input_ids,
            encode_prompts([Prompt("the cat", "all", "")], tokenizer, 9, given)[0],
            encode_texts(["the cat"], tokenizer, config=given)[0],
            *encode_pairs([Pair("the", " cat", " mat")], tokenizer, 9, given)[0].input_ids,
        ]
        assert [int(ids[0]) for ids in encoded] == [first] * 5
    assert encode_texts(["the cat"], tokenizer)[0][-1] == END
    translate = TokenTranslation.same(tokenizer, "cpu", config)  # a reward model of ours reads what theirs generates
    assert translate.prompts(torch.tensor([[START, 5, 6]]))[0].tolist() == [[END, 5, 6]]


def test_likelihoods_are_those_after_it(tokenizer, model, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"text": "the cat sat on a mat"}\n{"text": "one idiot who ate bread"}')
    losses = [
        loss_of(model, tokenizer, *pair) for pair in (("the cat sat on a", " mat"), ("one idiot who ate", " bread"))
    ]
    metrics = Lambada(files=str(tmp_path / "p.jsonl"))(model, tokenizer)["all"]
    assert metrics["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-6)
    metrics, _ = generation_perplexity(model, tokenizer, ["the cat"], [[" sat"]], ["all"], batch_size=1)
    (written,) = metrics.values()
    tokens = len(ids_of("the cat sat", tokenizer)) - len(ids_of("the cat", tokenizer))
    assert written["generation_perplexity"] == pytest.approx(
        np.exp(loss_of(model, tokenizer, "the cat", " sat") / tokens)
    )
    (odds,) = answer_log_odds(model, tokenizer, ["the cat :"], batch_size=1)
    slow = [loss_of(model, tokenizer, "the cat :", answer) for answer in (" B", " A")]
    assert odds == pytest.approx(slow[0] - slow[1]) and tokenizer.eos_token_id == END


def test_utilities_read_after_it(tokenizer, model):
    (found,) = mean_hidden_states(model, tokenizer, ["the cat"], max_length=9, batch_size=1)
    ids = torch.tensor([[START, *ids_of("the cat", tokenizer)]])
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states[-1][0, 1:]
    assert torch.allclose(found, states.mean(0))
    seen = []
    hook = model.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["input_ids"]) if "input_ids" in given else None, with_kwargs=True
    )
    attack = SuffixAttack(
        queries=[Query("the cat", " sat", True, "")], suffix_tokens=2, steps=1, top=2, candidates=2, target_tokens=1
    )
    attack(model, tokenizer)
    LogitLens(
        texts=[LabelledText("the idiot ate", 1.0), LabelledText("the cat ate", 0.0)],
        queries=[Query("the", " idiot", True, ""), Query("the", " cat", False, "")] * 3,
        log_odds=0.1,
    )(model, tokenizer)
    hook.remove()
    assert len(seen) > 3 and all((ids[:, 0] == START).all() for ids in seen)


def test_a_continuation_keeps_the_blank_it_begins_with(tokenizer):
    ids = encode_prompts([Prompt("the cat", "all", ""), Prompt("", "all", "")], tokenizer, 9)
    sat = ids_of("the cat sat on", tokenizer)[len(ids[0]) - 1 :]
    tokens = np.array([[[*sat, END]], [[*sat, END]]])
    assert decode_continuations(ids, tokens, tokenizer) == [[" sat on"], ["sat on"]], "a text begins with no blank"


def test_continuations_of_bytes_are_what_their_tokens_say():
    tokenizer = tiny_tokenizer(["the cat 🤖 é"])
    rng = np.random.default_rng(0)
    prompts = encode_prompts([Prompt("the 🤖", "all", ""), Prompt("é .", "all", "")], tokenizer, 99)
    tokens = rng.integers(len(tokenizer), size=(2, 50, 9))
    alone = tokenizer.batch_decode(tokens.reshape(100, 9), skip_special_tokens=True)
    first, second = decode_continuations(prompts, tokens, tokenizer)
    assert first + second == alone
    assert json.dumps(alone).count("ufffd") > 20, "characters cut in two are among them"


def test_what_is_cut_to_a_length_still_begins_with_it(tokenizer, model):
    long = "the cat sat on a mat and saw one idiot who ate all of his old bread"
    ids = ids_of(long, tokenizer)
    assert encode_prompts([Prompt(long, "all", "")], tokenizer, 6, model.config) == [[START, *ids[-5:]]]
    (query,) = encode_queries([Query(long, " in an hour", True, "")], tokenizer, 6, model.config)
    assert query.input_ids.tolist() == [START, *ids_of(f"{long} in an hour", tokenizer)[-5:]]
    assert query.continuation.tolist()[0] is False and query.continuation.any()
    (pair,) = encode_pairs([Pair(long, " cat", " mat")], tokenizer, 6, model.config)
    for half, text in enumerate((" cat", " mat")):
        whole = ids_of(long + text, tokenizer)
        response = whole[len(ids) :]
        assert pair.input_ids[half].tolist() == [START, *ids[len(response) - 5 :], *response]
        assert pair.response[half].sum() == len(response)
    assert last_tokens(START, [5, 6], None) == last_tokens(START, [5, 6], 3) == [START, 5, 6]
    assert last_tokens(START, [5, 6], 1) == [START]


@pytest.fixture(scope="module")
def pretrained(model, tokenizer, tmp_path_factory):
    """A model from elsewhere, as a folder with its tokenizer."""
    folder = tmp_path_factory.mktemp("pretrained")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_reward_model_learns_and_reads_texts_after_it(tokenizer, pretrained, monkeypatch):
    seen = {}

    def no_training(*given, **named):
        seen.update(named)
        return {}

    monkeypatch.setattr("ifguide.methods.rad.training.train_on_examples", no_training)
    monkeypatch.setattr("ifguide.methods.rad.training.save_trained", lambda *given: None)
    optim = Optimization(learning_rate=1e-3, batch_size=2, epochs=1)
    training = RewardTraining(optim=optim, pretrained=str(pretrained), validation=0)
    texts = [LabelledText("the cat sat", 0.0), LabelledText("one idiot who ate all", 1.0)]
    training.train(
        pretrained, texts, tokenizer=tokenizer, block_length=16, options=LoadOptions(),
        context=TrainingContext(TrainerSettings(), pretrained),
    )  # fmt: skip
    batch = seen["examples"][np.arange(2)]
    for row, text in zip(batch["input_ids"].tolist(), texts, strict=True):
        ids = ids_of(text.text, tokenizer)
        assert row[: len(ids) + 2] == [START, *ids, END]
    assert not batch["scored"][:, 0].any() and batch["scored"][:, 1].all()

    decoder = RAD(reward=training).load({"reward": pretrained}, tokenizer, "cpu", LoadOptions())
    for first in (START, END):  # whatever the generating model begins with
        ids, valid = decoder.translate.prompts(torch.tensor([[first, 5, 6]]))
        assert ids.tolist() == [[START, 5, 6]] and valid.all()
    candidates, _ = decoder.translate(torch.tensor([[5, START, END]]))
    assert candidates.tolist() == [[[5], [START], [END]]]


def test_preferences_are_learned_after_it(tokenizer, pretrained):
    model = load_model(pretrained).double()
    pairs = encode_pairs(
        [Pair("the cat", " sat on", " ate"), Pair("", "one cat", "one idiot")], tokenizer, 9, model.config
    )
    batch = PairExamples(pairs)[np.arange(2)]
    assert (batch["input_ids"][:, 0] == START).all() and not batch["response"][:, 0].any()
    found = reference_log_probabilities(model, pairs, batch_size=2)
    slow = [[-loss_of(model, tokenizer, "the cat", one) for one in (" sat on", " ate")],
            [-loss_of(model, tokenizer, "", one) for one in ("one cat", "one idiot")]]  # fmt: skip
    assert np.allclose(found, slow, atol=1e-5)
