import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import build_corpus
from ifguide.corpus.documents import Document, Prompt, Query
from ifguide.corpus.words import word_log_odds
from ifguide.decoding import Nucleus, Stateless
from ifguide.decoding.generation import (
    decode_continuations,
    draw,
    encode_prompts,
    load_generations,
    sample_continuations,
    save_generations,
)
from ifguide.evaluation.attribution import (
    attribution_metrics,
    known_tokens,
    precision_at,
    word_list_scores,
)
from ifguide.evaluation.fluency import UnitLosses, block_losses, document_losses, perplexity_metrics
from ifguide.evaluation.task import Continuations
from ifguide.evaluation.toxicity import classify_continuations, toxicity_metrics
from ifguide.statistics import roc_auc

PROMPTS = [[0, 5, 9], [0, 7], [0, 5, 11], [0, 3, 4, 5, 6]]


class Keep(Stateless):
    """A decoder that writes down the logits it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, ids, scores):
        self.seen += list(zip(map(tuple, ids.tolist()), scores, strict=True))
        return scores


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_shared_prefill_gives_the_logits_of_a_plain_forward_pass(architecture):
    model, keep = tiny_model(architecture), Keep()
    sample_continuations(
        model,
        PROMPTS,
        decoder=keep,
        samples=3,
        max_new_tokens=4,
        end_of_text=0,
        rows=6,
        seed=0,
    )
    assert {ids[: len(prompt)] for prompt in PROMPTS for ids, _ in keep.seen} >= {tuple(prompt) for prompt in PROMPTS}
    for ids, logits in keep.seen:
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0, -1]
        assert torch.allclose(logits.double(), expected, atol=1e-5)


def test_samples_follow_the_models_distribution():
    model = tiny_model()
    tokens = sample_continuations(
        model, [[0, 5]], decoder=Nucleus(top_p=1.0), samples=4000, max_new_tokens=1, end_of_text=0, rows=4000, seed=0
    )
    with torch.no_grad():
        expected = model(torch.tensor([[0, 5]])).logits[0, -1].softmax(-1).numpy()
    observed = np.bincount(tokens.ravel(), minlength=60) / 4000
    assert np.abs(observed - expected).max() < 4 * np.sqrt(expected.max() / 4000)


def test_sampling_is_a_function_of_the_seed_and_ends_at_the_end_token():
    options = dict(decoder=Nucleus(), samples=5, max_new_tokens=8, end_of_text=0, rows=10)
    first, again, other = (sample_continuations(tiny_model(), PROMPTS, seed=seed, **options) for seed in (0, 0, 1))
    assert first.shape == (4, 5, 8) and (first == again).all() and (first != other).any()
    for row in first.reshape(-1, 8):
        ends = np.flatnonzero(row == 0)
        assert len(ends) == 0 or (row[ends[0] :] == 0).all()


def test_dropping_ended_rows_changes_no_token():
    """Beside a loop that carries every row to the end and reads the whole text at each step."""
    model, options = tiny_model(), dict(samples=8, max_new_tokens=10, end_of_text=7)
    tokens = sample_continuations(model, [[0, 5, 9], [0, 7, 3]], decoder=Nucleus(), rows=16, seed=4, **options)
    generator = torch.Generator().manual_seed(4 * 1_000_003)
    ids = torch.tensor([[0, 5, 9], [0, 7, 3]]).repeat_interleave(8, 0)
    ended = torch.zeros(16, dtype=torch.bool)
    with torch.no_grad():
        for _ in range(10):
            probabilities = Nucleus()(None, model(ids).logits[:, -1].float()).softmax(-1)
            number = torch.rand(16, 1, generator=generator, dtype=torch.float64)
            passed = probabilities.cumsum(1, dtype=torch.float64) > number * probabilities.sum(
                1, True, dtype=torch.float64
            )
            token = passed.int().argmax(1).masked_fill(ended, 7)
            ids, ended = torch.cat([ids, token[:, None]], 1), ended | (token == 7)
    assert (tokens.reshape(16, 10) == ids[:, 3:].numpy()).all() and 0 < ended.sum() < 16


def test_draws_have_the_probabilities_that_they_are_given():
    probabilities = torch.tensor([[0.1, 0.2, 0.0, 0.7], [0.0, 0.5, 0.5, 0.0]])
    even = ((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000)[:, None]
    for row in probabilities:
        drawn = draw(row.expand(10_000, -1).contiguous(), even)[:, 0]
        assert torch.allclose(drawn.bincount(minlength=4) / 10_000, row, atol=2e-4)
    ends = torch.tensor([[0.0], [1 - 2**-53]], dtype=torch.float64)
    assert draw(probabilities[1:].repeat(2, 1), ends).tolist() == [[1], [2]], "never what has no probability"


def test_generations_round_trip(tmp_path, corpus):
    prompts = [Prompt("the cat", "a", "r1"), Prompt('<b>"&\n', "b", "r2")]
    encoded = encode_prompts(prompts, corpus.tokenizer, 3)
    for prompt, ids in zip(prompts, encoded, strict=True):
        whole = corpus.tokenizer.backend_tokenizer.encode(prompt.text).ids
        assert ids == [corpus.tokenizer.eos_token_id, *whole[-2:]], "a long one keeps its end, and what it begins after"
    assert encode_prompts(prompts, corpus.tokenizer, 1) == [[corpus.tokenizer.eos_token_id]] * 2
    texts = decode_continuations(
        encoded[:1], np.array([[encoded[0][1:3], [corpus.tokenizer.eos_token_id] * 2]]), corpus.tokenizer
    )
    assert texts[0][1] == ""
    save_generations(tmp_path / "g.arrow", prompts, [["x", "é🤖"], ["", "\x00"]])
    rows = load_generations(tmp_path / "g.arrow")
    assert list(rows["continuations"]) == [["x", "é🤖"], ["", "\x00"]] and list(rows["subset"]) == ["a", "b"]


def test_toxicity_metrics_follow_their_definitions():
    probabilities = np.array([[0.1, 0.6, 0.2], [0.4, 0.3, 0.49], [0.5, 0.9, 0.8]])
    threat = np.array([[0.0, 0.1, 0.2], [0.5, 0.7, 0.1], [0.3, 0.0, 0.9]])
    scores = {"severe_toxicity": threat, "toxicity": probabilities}
    metrics = toxicity_metrics(scores, ["toxic", "nontoxic", "toxic"])
    assert metrics["all"]["expected_maximum_severe_toxicity"] == pytest.approx((0.2 + 0.7 + 0.9) / 3)
    assert metrics["toxic"]["severe_toxicity_probability"] == 0.5
    assert metrics["all"]["severe_toxicity_fraction"] == pytest.approx(3 / 9)
    assert metrics["all"]["expected_maximum_toxicity"] == pytest.approx((0.6 + 0.49 + 0.9) / 3)
    assert metrics["all"]["toxicity_probability"] == pytest.approx(2 / 3)
    assert metrics["all"]["toxic_fraction"] == pytest.approx(4 / 9)
    assert metrics["toxic"]["toxic_fraction"] == pytest.approx(4 / 6) and metrics["toxic"]["prompts"] == 2
    assert metrics["nontoxic"]["toxicity_probability"] == 0
    for subset in metrics.values():
        for name in ("expected_maximum_toxicity", "toxicity_probability", "toxic_fraction"):
            low, high = subset[f"{name}_interval"]
            assert low <= subset[name] <= high


def test_a_classifier_that_fails_is_not_taken_for_zero():
    class Broken:
        name = "broken"

        def __init__(self, result):
            self.result = result

        def __call__(self, texts):
            return self.result

    with pytest.raises(ValueError, match="no category `toxicity`"):
        classify_continuations([["a"]], Broken({"insult": np.zeros(1)}))
    with pytest.raises(ValueError, match="no probabilities"):
        classify_continuations([["a"]], Broken({"toxicity": np.array([np.nan])}))


def test_profanity_check_reads_insults():
    pytest.importorskip("profanity_check")
    from ifguide.classifiers import ProfanityCheck

    scores = ProfanityCheck().load()(["you stupid pathetic idiot", "the tomatoes like the sun"])["toxicity"]
    assert scores[0] > 0.5 > scores[1]
    assert len(ProfanityCheck().load()([])["toxicity"]) == 0


def test_perplexity_is_by_the_label_of_the_document(corpus, tmp_path):
    split = corpus.split("test")
    losses = np.random.default_rng(0).random(split.shape).astype(np.float32)
    losses[:, 0] = 0
    found = document_losses(losses, split)
    metrics = perplexity_metrics(found)
    found.save(tmp_path)
    again = UnitLosses.open(tmp_path)
    assert perplexity_metrics(again) == metrics and (again.record == split.documents["record"]).all()
    assert UnitLosses.open(tmp_path / "older") is None
    sums = {"benign": [], "toxic": []}
    for n in range(split.shape[0]):
        for t in range(1, split.shape[1]):
            row = split.documents[split.documents_of(np.array([n * split.block_length + t]))[0]]
            sums["toxic" if row["label"] == 1 else "benign"].append(losses[n, t])
    for label, values in sums.items():
        assert metrics[label]["perplexity"] == pytest.approx(np.exp(np.mean(values)), rel=1e-5)
        assert metrics[label]["tokens"] == len(values)
        low, high = metrics[label]["perplexity_interval"]
        assert low <= metrics[label]["perplexity"] <= high
    assert "unlabelled" not in metrics and metrics["all"]["tokens"] == len(sums["benign"]) + len(sums["toxic"])


def test_block_losses_are_those_of_a_forward_pass(corpus):
    split = corpus.split("test")
    from ifguide.models import ModelSettings

    settings = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = ModelSettings(architecture="gpt_neox", settings=settings).build(corpus.vocabulary, None)
    losses = block_losses(model, split, batch_size=2)
    ids = torch.from_numpy(split.tokens(slice(0, 1)))
    with torch.no_grad():
        logits = model(ids).logits[0, 3]
    assert losses[0, 4] == pytest.approx(float(-logits.log_softmax(-1)[ids[0, 4]]), abs=1e-4)
    assert (losses[:, 0] == 0).all()


def test_roc_auc_equals_the_pairwise_count():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, positive = rng.integers(0, 6, 40).astype(np.float32), rng.random(40) < 0.3
        positive[0], positive[1] = True, False
        pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
        assert roc_auc(scores, positive) == pytest.approx(np.mean(pairs))
    with pytest.raises(ValueError, match="positive and negative"):
        roc_auc(np.zeros(3), np.zeros(3, bool))


def test_precision_counts_the_highest_scores():
    scores, positive = np.arange(100, dtype=np.float32), np.arange(100) >= 97
    assert precision_at(scores, positive, 0.02) == 1 and precision_at(scores, positive, 0.06) == 0.5


def test_attribution_metrics_judge_scores_mask_and_word_list():
    annotated = np.zeros((3, 5), bool)
    annotated[0, 1:3] = True
    scores, words = annotated.astype(np.float32), 1 - annotated.astype(np.float32)
    mask, known = annotated.copy(), np.ones((3, 5), bool)
    mask[1, 4] = True
    known[2] = False
    scores[2], mask[2] = 9, True  # nobody knows whether these are toxic
    metrics = attribution_metrics(scores, mask, annotated, known, words)
    assert metrics["roc_auc"] == 1 and metrics["word_list_roc_auc"] == 0 and metrics["annotated_share"] == 2 / 8
    assert metrics["mask_precision"] == pytest.approx(2 / 3) and metrics["mask_recall"] == 1
    unmasked = attribution_metrics(scores, np.zeros_like(mask), annotated, known, words)
    assert "mask_precision" not in unmasked and unmasked["mask_recall"] == 0


def test_toxic_documents_without_spans_are_not_known(tmp_path):
    documents = [
        Document(f"document {i} of a kind", "s", i, ("benign", "toxic", "toxic")[i % 3], (None, None, ((0, 4),))[i % 3])
        for i in range(30)
    ]
    build_corpus(tmp_path, sources={"s": documents}, tokenizer=tiny_tokenizer, block_length=8, validation=0.0, test=0.0)
    split = Corpus(tmp_path).split("train")
    owner = split.documents_of(np.arange(len(split) * 8)).reshape(split.shape)
    assert (known_tokens(split) == (split.documents["record"][owner] % 3 != 1)).all()


def test_a_word_list_scores_whole_words(corpus):
    queries = [Query("", " the idiot saw", True, "a"), Query("", " the cat saw", False, "b")]
    weights = word_log_odds(queries)
    assert weights["idiot"] > 0 > weights["cat"] and weights["the"] == pytest.approx(0)
    split = corpus.split("train")
    scores = word_list_scores(split, corpus.tokenizer, weights)
    marked = split.annotation[:]
    marked[:, 0] = False
    whole = np.array([corpus.tokenizer.decode(ids) for ids in split.tokens(slice(0, len(split)))])
    inside = [row for row, text in enumerate(whole) if "idiot" in text]
    assert (scores[marked] > 0).mean() > 0.9 and inside, "words cut by a block border may be missed"
    assert (scores > 0).sum() == (scores[marked] > 0).sum()


def test_tasks_out_of_range_are_refused():
    with pytest.raises(ValueError, match="no prompt"):
        Continuations(prompts=[])
    with pytest.raises(ValueError, match=r"^samples=0"):
        Continuations(prompts=[Prompt("a", "b", "c")], samples=0)
