import numpy as np
import pytest

from ifguide.corpus.documents import Query
from ifguide.methods.samples import SAMPLES_FILE, Sampling, load_samples, save_samples


def query(prompt, toxic=False):
    return Query(prompt=prompt, continuation=" so.", toxic=toxic, record=f"record of {prompt}")


def test_each_prompt_of_the_queries_is_continued_once():
    queries = [query("You are", toxic=True), query("The sky"), query("You are"), query(" "), query("A cat")]
    prompts = Sampling(limit=2).prompts(queries)
    assert [(one.text, one.subset) for one in prompts] == [("You are", "toxic"), ("The sky", "nontoxic")]
    with pytest.raises(ValueError, match="no query has a prompt"):
        Sampling().prompts([query("")])


def test_samples_come_back_as_they_were_written(tmp_path):
    tokens = np.arange(12).reshape(2, 3, 2)
    save_samples(tmp_path / SAMPLES_FILE, [[5], [6, 7, 8]], tokens)
    prompts, continuations = load_samples(tmp_path / SAMPLES_FILE)
    assert prompts == [[5], [6, 7, 8]] and np.array_equal(continuations, tokens)


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("top_p", 0), ("samples", 0), ("seed", -1), ("rows", 1.5)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value}"):
        Sampling(**{name: value})
