import json

import numpy as np
import pytest
import torch
from tiny import WORDS
from transformers import AutoModelForCausalLM

from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import LabelledSource, check_labelled, encode_texts, pack_texts
from ifguide.methods.dexperts import ExpertTraining
from ifguide.methods.rad.model import load_reward_model
from ifguide.methods.rad.training import RewardTraining, TextExamples
from ifguide.models import LoadOptions, ModelSettings
from ifguide.objectives.language_modeling import cross_entropy
from ifguide.training.context import TrainingContext
from ifguide.training.optimization import Optimization
from ifguide.training.trainer import TrainerSettings

CPU = TrainerSettings(micro_batch_size=8, progress=False)
HARMLESS = [word for word in WORDS if word != "idiot"]


def labelled(count=160):
    rng = np.random.default_rng(0)
    texts = []
    for n in range(count):
        words = list(rng.choice(HARMLESS, 8))
        if n % 2:
            words[rng.integers(2, 6)] = "idiot"
        texts.append(LabelledText(" ".join(words), float(n % 2)))
    return texts


@pytest.fixture(scope="module")
def start(corpus, tmp_path_factory):
    settings = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = ModelSettings(architecture="gpt_neox", settings=settings).build(corpus.vocabulary, None)
    folder = tmp_path_factory.mktemp("start")
    model.save_pretrained(folder)
    corpus.tokenizer.save_pretrained(folder)
    return folder


def options(corpus, directory, **more):
    context = TrainingContext(CPU, directory)
    return dict(tokenizer=corpus.tokenizer, block_length=16, context=context, options=LoadOptions()) | more


def test_a_reward_model_learns_where_a_text_turns(corpus, start, tmp_path):
    training = RewardTraining(optim=Optimization(learning_rate=1e-2, batch_size=8, epochs=5))
    facts = training.train(start, labelled(400), **options(corpus, tmp_path))
    assert facts["validation/loss"] < 0.15, "0.25 is knowing nothing"
    model = load_reward_model(tmp_path).eval()
    (ids,) = encode_texts(["the cat sat on idiot mat and saw"], corpus.tokenizer)
    turn = len(encode_texts(["the cat sat on idiot"], corpus.tokenizer)[0]) - 2  # the last token of the word
    with torch.no_grad():
        rewards = model(torch.tensor(ids)[None])[0]
    assert rewards[1 : turn - 2].max() < 0.75 < rewards[turn:].min()
    never = RewardTraining(optim=Optimization(learning_rate=1e-2, batch_size=8, epochs=0))
    assert never.train(tmp_path, labelled(), **options(corpus, tmp_path / "kept"))["steps"] == 0
    kept = load_reward_model(tmp_path / "kept").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items()), "head and all"


def test_scores_leave_out_padding_and_the_first_token():
    batch = TextExamples([np.array([0, 4, 5, 0]), np.array([0, 0])], np.array([1, 0], np.float32))[np.array([1, 0])]
    assert batch["input_ids"].tolist() == [[0, 0, 0, 0], [0, 4, 5, 0]] and batch["toxicity"].tolist() == [0, 1]
    assert batch["scored"].tolist() == [[False, True, False, False], [False, True, True, True]]


def test_experts_learn_their_own_texts(corpus, start, tmp_path):
    optim = Optimization(learning_rate=3e-3, batch_size=8, epochs=6)
    losses = {}
    texts = labelled()
    for toxic in (False, True):
        folder = tmp_path / str(toxic)
        facts = ExpertTraining(optim=optim, toxic=toxic).train(start, texts, **options(corpus, folder))
        assert facts["texts"] == 76 and facts["steps"] > 0
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        for kind in (False, True):
            split = pack_texts([one.text for one in texts if one.toxic == kind], corpus.tokenizer, 16)
            ids = torch.from_numpy(split.tokens(slice(0, len(split))))
            with torch.no_grad():
                losses[toxic, kind] = float(cross_entropy(model(ids).logits, ids))
    assert losses[False, False] - losses[True, False] < losses[False, True] - losses[True, True] - 0.1


def test_packed_blocks_are_the_stream_of_texts(corpus):
    texts = ["the cat", "sat on a mat and saw", "one idiot", "who ate all of his old bread"]
    split = pack_texts(texts, corpus.tokenizer, 4)
    stream = [token for text in texts for token in [*corpus.tokenizer.encode(text), corpus.tokenizer.eos_token_id]]
    assert split.tokens(slice(0, len(split))).ravel().tolist() == stream[: len(split) * 4]
    assert len(split) == len(stream) // 4 and split.block_length == 4
    assert len(pack_texts(["the"], corpus.tokenizer, 16)) == len(pack_texts([], corpus.tokenizer, 16)) == 0


def test_a_text_with_two_labels_has_its_first(tmp_path, caplog):
    rows = [{"t": "a", "y": 1}, {"t": "b", "y": 0}, {"t": "a", "y": 0}, {"t": "b", "y": 0}]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list(LabelledSource(files=str(tmp_path / "l.jsonl"), text="t", label="y"))
    assert found == [LabelledText("a", 1.0), LabelledText("b", 0.0)]
    assert "1 records repeat a text with another label: the first one counts" in caplog.text


def test_local_labels_are_values_or_toxicities(tmp_path):
    rows = [{"t": "a", "y": 0.7}, {"t": " ", "y": 0.1}, {"t": "b", "y": 0.0}, {"t": "c", "y": 1}]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list(LabelledSource(files=str(tmp_path / "l.jsonl"), text="t", label="y"))
    assert found == [LabelledText("a", 0.7), LabelledText("b", 0.0), LabelledText("c", 1.0)]
    found = list(LabelledSource(files=str(tmp_path / "l.jsonl"), text="t", label="y", positive=[1], limit=2))
    assert found == [LabelledText("a", 0.0), LabelledText("b", 0.0)]
    with pytest.raises(ValueError, match="both kinds"):
        check_labelled(found)
    (tmp_path / "l.jsonl").write_text(json.dumps({"t": "a", "y": 2}))
    with pytest.raises(ValueError, match=r"l\.jsonl:1: `y` is not in \[0, 1\]"):
        list(LabelledSource(files=str(tmp_path / "l.jsonl"), text="t", label="y"))


def test_held_out_texts_below_a_block_validate_nothing(corpus, start, tmp_path):
    training = ExpertTraining(optim=Optimization(learning_rate=3e-3, batch_size=8, epochs=1), validation=0.02)
    facts = training.train(start, labelled(100), **options(corpus, tmp_path))
    assert facts["texts"] == 49 and facts["steps"] > 0 and "validation/loss" not in facts


def test_what_cannot_learn_is_named_with_its_settings(corpus):
    optim = Optimization(learning_rate=3e-3, batch_size=999, epochs=1)
    for training, match in (
        (RewardTraining(optim=optim), r"^optim\.batch_size=999: .* 152 labelled texts are less"),
        (ExpertTraining(optim=optim), r"^optim\.batch_size=999: .* blocks of labelled texts are less"),
    ):
        with pytest.raises(ValueError, match=match):
            training.check_corpus(labelled(), corpus.tokenizer, 16)


def test_a_reward_model_without_a_head_is_trained(start):
    for pretrained in (None, str(start)):
        kept = RewardTraining(optim=Optimization(learning_rate=1e-3, batch_size=8, epochs=0), pretrained=pretrained)
        with pytest.raises(ValueError, match=r"^optim\.epochs=0 .* no trained head"):
            kept.check(labelled())


def test_an_expert_without_texts_is_refused():
    optim = Optimization(learning_rate=3e-3, batch_size=8, epochs=6)
    with pytest.raises(ValueError, match=r"^nontoxic_at_most=0\.0: no labelled"):
        ExpertTraining(optim=optim).check([LabelledText("a", 1.0)])
