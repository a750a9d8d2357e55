import json

import numpy as np
import pytest
import torch

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import build_corpus
from ifguide.corpus.documents import Query
from ifguide.corpus.fine_tuning import FineTuningSource
from ifguide.corpus.queries import encode_queries
from ifguide.corpus.tokenizers import TokenizerSettings
from ifguide.evaluation.documents import record_scores, representation_similarity, response_states, response_tokens
from ifguide.models import ModelSettings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of twelve records, and these."""
    folder = tmp_path_factory.mktemp("records")
    rows = [
        {"prompt": f"Say {n} to me.", "response": "so be it, " * (n % 4 + 1) + str(n),
         "type": "Unsafe" if n == 3 else "Benign"} for n in range(12)
    ]  # fmt: skip
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = FineTuningSource(files=str(folder / "train.jsonl"))
    build_corpus(
        folder / "corpus", sources={"date_lm": source}, tokenizer=TokenizerSettings(vocabulary=300), block_length=16,
        validation=0, test=0,
    )  # fmt: skip
    return Corpus(folder / "corpus"), source.records()


def test_tokens_of_responses_and_their_scores_are_their_definition(made):
    corpus, records = made
    split, tokenizer = corpus.split("train"), corpus.tokenizer
    counted = response_tokens(split, tokenizer, records)
    scores = np.random.default_rng(0).normal(size=split.shape)
    ids = split.tokens(slice(0, None)).ravel()
    sums, means = ([] for _ in range(2))
    for number, record in enumerate(records):
        found = np.flatnonzero(split.documents["record"] == number)
        places = []
        if len(found):
            start, end = split.extent(int(found[0]))
            text = ""
            for place in range(start, end):
                text += tokenizer.decode([int(ids[place])])
                inside = len(text) > len(record.context) and ids[place] != tokenizer.eos_token_id
                assert counted.ravel()[place] == (inside and place % 16 != 0)
                places += [place] if inside and place % 16 else []
        chosen = scores.ravel()[places]
        sums.append(chosen.sum() if places else np.nan)
        means.append(chosen.mean() if places else np.nan)
    given = (split, scores, counted)
    np.testing.assert_allclose(record_scores(*given, records=12, mean=False), sums)
    np.testing.assert_allclose(record_scores(*given, records=12, mean=True), means)
    assert np.isnan(record_scores(*given, records=13, mean=False)[12])


def test_states_of_responses_are_means_one_by_one(made):
    corpus, records = made
    model = ModelSettings(
        architecture="gpt_neox",
        settings=dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32),
    ).build(corpus.vocabulary, corpus.end_of_text)  # fmt: skip
    queries = [Query(one.context, one.response, False, "") for one in records]
    encoded = encode_queries(queries, corpus.tokenizer, 64, model.config)
    states = response_states(model, encoded, batch_size=5)
    for state, one in zip(states, encoded, strict=True):
        with torch.no_grad():
            hidden = model(torch.from_numpy(one.input_ids)[None], output_hidden_states=True).hidden_states[-1][0]
        np.testing.assert_allclose(state, hidden.numpy()[one.continuation].mean(0), atol=1e-5)
    cosines = [
        np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in states[:3]]) for a in states
    ]  # fmt: skip
    np.testing.assert_allclose(representation_similarity(states, states[:3]), cosines)
    assert representation_similarity(np.zeros((1, 16)), states).tolist() == [0]
