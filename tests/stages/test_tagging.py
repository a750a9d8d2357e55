"""Control tokens in a corpus: they stand where a classifier says, and without them the text is what it was."""

import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from rows import Row
from tiny import WORDS, tiny_tokenizer
from transformers import AutoTokenizer

from ifguide.classifiers import ReadyClassifier
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import build_corpus
from ifguide.corpus.control_tokens import UNTAGGED, ControlTokens, named_tokenizer, segments, sentence_starts
from ifguide.corpus.documents import Document
from ifguide.corpus.masks import MASK_FILE, TokenMask
from ifguide.stages.stage import Inputs
from ifguide.stages.tagging import JudgedSegments, Tagged, TaggedMask, tag_facts
from ifguide.training.trainer import TrainerSettings

CPU = TrainerSettings()


class Idiots(ReadyClassifier):
    """A classifier: whether a text has the word."""

    name = "idiots"

    def load(self, folder=None, device="cpu"):
        return self

    def __call__(self, texts):
        return {"toxicity": np.array([float("idiot" in text) for text in texts])}


def control(**settings):
    return ControlTokens(**(dict(classifier=Idiots(), untagged=0.0) | settings))


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    """Documents of one to four sentences, some behind a new line."""
    rng, documents = np.random.default_rng(0), []
    for record in range(80):
        sentences = [" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(rng.integers(1, 5))]
        text = f"{record} " + "".join(s + rng.choice([". ", "!\n", "?) ", ".\n\n"]) for s in sentences).strip()
        spans = tuple(match.span() for match in re.finditer("idiot", text))
        documents.append(Document(text, "posts", record, "toxic" if spans else "benign", spans))
    folder = tmp_path_factory.mktemp("posts")
    build_corpus(
        folder, sources={"posts": documents}, tokenizer=tiny_tokenizer, block_length=16, validation=0.1, test=0.1
    )
    return Corpus(folder)


def inputs(**folders):
    return Inputs({name: SimpleNamespace(path=path) for name, path in folders.items()})


def tagged(posts, folder, settings):
    """The corpus with control tokens, and its manifest's facts."""
    for name in ("scores", "tagged"):
        (folder / name).mkdir(parents=True)
    judged = JudgedSegments(data=None, classifier=None, filter=settings, judge=Idiots(), trainer=CPU)
    judged.build(folder / "scores", inputs(data=posts.path, classifier=folder))
    facts = Tagged(data=None, judged=None, filter=settings).build(
        folder / "tagged", inputs(data=posts.path, judged=folder / "scores")
    )
    return Corpus(folder / "tagged"), facts


@pytest.fixture(scope="module")
def made(posts, tmp_path_factory):
    """Unit → the corpus with a control token before every segment, and its facts."""
    return {unit: tagged(posts, tmp_path_factory.mktemp(unit), control(unit=unit)) for unit in ("sentence", "document")}


def stream(corpus, name="train"):
    split = corpus.split(name)
    return split.tokens(slice(0, len(split))).ravel()


def documents_of(corpus, name="train"):
    """The tokens of each document that the blocks hold whole."""
    starts = corpus.split(name).documents["start"]
    return [stream(corpus, name)[a:b].tolist() for a, b in pairwise(starts)]


def test_sentences_begin_behind_the_end_of_others():
    for text, expected in (
        ("One. Two!  Three?", ["One.", " Two!", "  Three?"]),
        (
            'He said "no." Then\nleft (at 3.5 km).\n\nEnd...',
            ['He said "no."', " Then", "\nleft (at 3.5 km).", "\n\nEnd..."],
        ),
        ("no end \n ", ["no end \n "]),
        ("\n\n. a", ["\n\n.", " a"]),
        ("", [""]),
    ):
        starts = sentence_starts(text)
        assert [text[a:b] for a, b in pairwise([*starts, len(text)])] == expected


@pytest.mark.parametrize("unit", ["sentence", "document"])
def test_segments_are_the_text_and_begin_with_a_token(posts, unit):
    split, tokenizer = posts.split("train"), posts.tokenizer
    tokens, found = stream(posts), list(segments(split, tokenizer, unit))
    starts = np.concatenate([first for first, _ in found])
    assert len(found) == len(split.documents) and (np.diff(starts) > 0).all()
    assert (np.array([first[0] for first, _ in found]) == split.documents["start"]).all()
    assert max(len(texts) for _, texts in found) == (4 if unit == "sentence" else 1)
    for a, b, text in zip(starts, [*starts[1:], len(tokens)], [t for _, texts in found for t in texts], strict=True):
        assert tokenizer.decode(tokens[a:b].tolist(), skip_special_tokens=True) == text
        assert unit == "document" or not re.search(r"[.!?)]\s+\w", text)


@pytest.mark.parametrize("unit", ["sentence", "document"])
def test_tags_stand_where_the_classifier_says_and_all_else_is_as_it_was(posts, made, unit):
    corpus, facts = made[unit]
    good, bad = corpus.control_tokens
    assert (good, bad) == (posts.vocabulary, posts.vocabulary + 1) and corpus.text_vocabulary == posts.vocabulary
    new, old = stream(corpus), stream(posts)
    kept = ~np.isin(new, [good, bad])
    assert (new[kept] == old[: kept.sum()]).all() and len(old) - kept.sum() < 16
    expected, places = posts.split("train").annotation[:].ravel(), corpus.split("train").annotation[:].ravel()
    assert (places[kept] == expected[: kept.sum()]).all() and not places[~kept].any() and expected.any()

    seen = set()
    for tokens, before in zip(documents_of(corpus), documents_of(posts), strict=False):
        assert [token for token in tokens if token not in (good, bad)] == before and tokens[0] in (good, bad)
        edges = [place for place, token in enumerate(tokens) if token in (good, bad)]
        assert unit == "sentence" or edges == [0]
        for a, b in pairwise([*edges, len(tokens)]):
            text = corpus.tokenizer.decode(tokens[a + 1 : b], skip_special_tokens=True)
            assert (tokens[a] == bad) == ("idiot" in text)
            seen.add(tokens[a])
    assert seen == {good, bad}
    every = facts["filter"]["all"]
    assert every["untagged_share"] == 0 < every["bad_share"] < 1 and every["documents"] == len(
        posts.split("train").documents
    )
    assert facts["filter"]["toxic"]["documents_bad_share"] == 1 and facts["filter"]["benign"]["bad_share"] == 0


def test_held_out_documents_begin_with_the_good_token_and_have_no_other(posts, made):
    corpus, _ = made["sentence"]
    good, bad = corpus.control_tokens
    for name in ("validation", "test"):
        tokens, split = stream(corpus, name), corpus.split(name)
        assert np.flatnonzero(tokens == good).tolist() == split.documents["start"].tolist() and bad not in tokens
        assert (tokens[tokens != good] == stream(posts, name)[: (tokens != good).sum()]).all()


def test_a_share_of_the_tags_is_left_out_by_a_seed():
    scores = np.random.default_rng(0).random(20_000)
    first, again, other = (control(untagged=0.01, seed=seed).kinds(scores) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert (first == UNTAGGED).mean() == pytest.approx(0.01, abs=0.003)
    tags = first != UNTAGGED
    assert (first[tags] == (scores >= 0.5)[tags]).all()
    assert control(threshold=None, share=0.2).kinds(scores).mean() == 0.2


def test_untagged_segments_have_no_token(posts, tmp_path):
    corpus, facts = tagged(posts, tmp_path, control(untagged=0.3))
    every = facts["filter"]["all"]
    count = np.isin(stream(corpus), corpus.control_tokens).sum()
    assert every["segments"] * (1 - every["untagged_share"]) == pytest.approx(count, abs=5)
    assert 0.15 < every["untagged_share"] < 0.45


def test_masks_follow_their_tokens(posts, made, tmp_path):
    corpus, _ = made["sentence"]
    mask = np.random.default_rng(0).random(posts.split("train").shape) < 0.2
    mask[:, 0] = False
    (tmp_path / "mask").mkdir()
    TokenMask.pack(mask).save(tmp_path / "mask" / MASK_FILE)
    (tmp_path / "moved").mkdir()
    facts = TaggedMask(data=None, mask=None, tagged=None).build(
        tmp_path / "moved", inputs(data=posts.path, mask=tmp_path / "mask", tagged=corpus.path)
    )
    found = TokenMask.open(tmp_path / "moved" / MASK_FILE, 16)[:]
    kept = ~np.isin(stream(corpus), corpus.control_tokens)
    expected = np.zeros(found.size, bool)
    expected[kept] = mask.ravel()[: kept.sum()]
    expected = expected.reshape(found.shape)
    expected[:, 0] = False
    assert (found == expected).all() and facts["selected"] == expected.sum() > 0


def test_facts_are_of_each_label(posts):
    split = posts.split("train")
    starts = np.asarray(split.documents["start"])
    kinds = np.where(split.documents["label"] == 1, 1, 0)
    facts = tag_facts(starts, kinds, split)
    assert facts["toxic"]["documents_bad_share"] == 1 and facts["benign"]["bad_share"] == 0


def test_a_saved_tokenizer_names_the_tokens_and_texts_cannot_spell_them(posts, made):
    corpus, _ = made["sentence"]
    ours, theirs = corpus.tokenizer, AutoTokenizer.from_pretrained(corpus.path / "tokenizer")
    for tokenizer in (ours, theirs):
        assert [tokenizer.good_token_id, tokenizer.bad_token_id] == corpus.control_tokens
        assert tokenizer.eos_token == posts.tokenizer.eos_token
        assert (
            tokenizer.decode([*corpus.control_tokens, *posts.tokenizer.encode("the cat")], skip_special_tokens=True)
            == "the cat"
        )
    assert theirs(theirs.good_token + "the cat").input_ids == [
        corpus.control_tokens[0],
        *posts.tokenizer.encode("the cat"),
    ]
    assert not set(ours.backend_tokenizer.encode("<|good|>").ids) & set(corpus.control_tokens)


def test_tokens_in_reserve_are_used_and_others_refused(posts, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(posts.path / "tokenizer")
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|reserved_0|>", "<|reserved_1|>"]})
    tokenizer.save_pretrained(tmp_path)
    named = named_tokenizer(tmp_path, "<|reserved_0|>", "<|reserved_1|>")
    assert named.get_vocab() == tokenizer.get_vocab() and named.good_token_id == posts.vocabulary
    control(good="<|reserved_0|>", bad="<|reserved_1|>").check_tokenizer(tokenizer)
    for token, message in (("<|endoftext|>", "ends a text"), ("a", "is written in texts")):
        with pytest.raises(ValueError, match=rf"^bad={re.escape(token)}: .* {message}"):
            control(bad=token).check_tokenizer(tokenizer)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"share": 0.1}, "exactly one"),
        ({"threshold": 1.5}, r"^threshold=1\.5"),
        ({"untagged": 1.0}, r"^untagged=1\.0"),
        ({"unit": "word"}, r"^unit=word: known"),
        ({"seed": -1}, r"^seed=-1"),
        ({"bad": "<|good|>"}, r"^good=<\|good\|>: .*two different"),
    ],
)
def test_arguments_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        control(**settings)


def test_a_category_that_nobody_judges_is_refused():
    with pytest.raises(ValueError, match=r"^category=threat: idiots has toxicity"):
        control(category="threat").scores(iter([["a"]]), Idiots())


@pytest.fixture(scope="module")
def folder(begun):
    return begun()


@pytest.mark.slow
def test_a_row_is_trained_sampled_and_measured_with_its_tokens(folder):
    none, row = (Row(folder, f"method={method}").run() for method in ("none", "conditional"))
    assert row.path("data") == none.path("data") and row.path("model") != none.path("model")
    tokenizer, model = AutoTokenizer.from_pretrained(row.path("model")), row.model()
    ids = [tokenizer.good_token_id, tokenizer.bad_token_id]
    assert model.generation_config.suppress_tokens == ids
    ours, theirs = (one.metrics()["perplexity"]["all"] for one in (row, none))
    assert ours["documents"] <= theirs["documents"] and 0 <= theirs["tokens"] - ours["tokens"] < 3 * 32
    assert row.metrics()["filter"]["all"]["segments"] > 100 and row.metrics()["toxicity"]["all"]
    (note,) = row.plan.row["notes"]
    assert note.startswith("Prompts begin with the control token <|good|>")
    other = Row(folder, "method=conditional", "filter.share=0.1", "filter.threshold=null", "stage=model").run()
    assert other.path("segment_scores") == row.path("segment_scores") and other.path("filtered") != row.path("filtered")

    again = Row(
        folder, "method=none", "decoding=conditional", f"model.pretrained={row.path('model')}", "optim.epochs=0",
        f"data.tokenizer.path={row.path('model')}",
    )  # fmt: skip
    assert np.isfinite(again.metrics()["toxicity"]["all"]["toxic_fraction"]), "an ordinary model folder"


@pytest.mark.slow
def test_a_mask_goes_with_control_tokens(folder):
    options = ["filter=control_tokens", "decoding=conditional"]
    both = Row(folder, "method=ifguide", *options, "stage=model").run()
    corpus, mask = Corpus(both.path("filtered")), TokenMask.open(both.path("filtered_mask") / MASK_FILE, 32)
    kept = ~np.isin(stream(corpus), corpus.control_tokens)
    moved = mask[:].ravel()
    assert not moved[~kept].any() and 0 < mask.count() <= both.mask.count()
    assert not (moved[kept] & ~both.mask[:].ravel()[: kept.sum()]).any()
    assert set(both.made["model"].manifest["inputs"]) == {"data", "mask"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=conditional", "decoding=nucleus"], r"^decoding: Nucleus may write the control tokens"),
        (["method=conditional", "post_training=dpo"], r"^post_training: it knows nothing of the control tokens"),
        (["method=conditional", "filter.unit=word"], r"^filter\.unit=word"),
    ],
)
def test_what_knows_no_control_tokens_is_refused_before_any_work(folder, overrides, message):
    with pytest.raises(ValueError, match=message):
        Row(folder / "untouched", *overrides).check()
    assert not (folder / "untouched").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=none", "decoding=conditional"], r"^decoding\.kind=good: the tokenizer has no control tokens"),
        (["method=conditional", "filter.good=<|endoftext|>"], r"^filter\.good=<\|endoftext\|>: "),
        (["method=steering", "decoding.block=2"], r"^decoding\.block=2: the model has 2 decoder blocks, from 0 to 1"),
    ],
)
def test_mistakes_that_need_the_corpus_are_named_before_any_training(folder, overrides, message):
    row = Row(folder, *(re.sub(r"(<.*>)", r"'\1'", one) for one in overrides))
    with pytest.raises(ValueError, match=message):
        row.run()
    assert "model" not in row.made
