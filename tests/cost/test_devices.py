"""How long a pass takes: on a named device by its data sheet, here by trying it; and what fits."""

from dataclasses import dataclass

import pytest
import torch

from ifguide.corpus.build import CorpusSettings
from ifguide.corpus.sources import HubSource
from ifguide.corpus.tokenizers import TokenizerSettings
from ifguide.cost import CorpusSize, Memory, Pass, generating, reading, shape_of, typical
from ifguide.cost.corpus import estimated_size
from ifguide.cost.devices import ThisMachine, named_device
from ifguide.models import ModelSettings

SHAPE = shape_of(
    ModelSettings(
        architecture="gpt_neox",
        settings=dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32),
    ),
    64,
)


@dataclass
class Counted:
    """A kind that costs what a test says, and notes how it is tried."""

    amount: float
    reads: float = 0.0
    name: str = "counted"
    tried: tuple = ()

    def flops(self, model, rows, length):
        return rows * length * self.amount

    def weight_reads(self, length):
        return self.reads

    def run(self, model, rows, length):
        self.tried = (rows, length)


def test_a_named_device_takes_its_share_of_the_peak_or_of_the_bandwidth():
    arithmetic = Pass(Counted(1e9), SHAPE, 8, 100, 10, "bfloat16")
    assert named_device("h100", 0.5).seconds(arithmetic) == pytest.approx(8e12 / (989e12 * 0.5))
    assert named_device("a100", 0.5).seconds(arithmetic) == pytest.approx(8e12 / (312e12 * 0.5))
    reading = Pass(Counted(0, reads=20), SHAPE, 8, 100, 10)
    assert named_device("h200", 0.5).seconds(reading) == pytest.approx(20 * 10 * SHAPE.parameters * 4 / (4800e9 * 0.5))


def test_an_unknown_device_and_a_share_that_is_none_are_refused():
    with pytest.raises(ValueError, match=r"^plan.device=v100: known: a100, h100, h200"):
        named_device("v100", 0.4)
    with pytest.raises(ValueError, match=r"^plan.share=2: a share"):
        named_device("h100", 2)


def test_here_a_batch_is_tried_that_is_small_enough_and_its_median_counts():
    ticks = iter([0, 9, 10, 10.1, 20, 20.3, 30, 30.2])  # the first is not counted
    machine, kind = ThisMachine(torch.device("cpu"), clock=lambda: next(ticks)), Counted(1e6)
    assert machine.time(lambda: None) == pytest.approx(0.1)  # 9 seconds are enough behind one more
    ticks = iter([0, 0.1, 1, 1.3, 2, 2.1, 3, 3.2])
    assert machine.rate(Pass(kind, SHAPE, 4096, 100, 1)) == pytest.approx(kind.flops(SHAPE, *kind.tried) / 0.2)
    assert kind.tried[1] == 100 and 2e9 < kind.flops(SHAPE, *kind.tried) <= 8e9


def test_the_largest_power_of_two_fits():
    memory = Memory(fixed=10.0, each=2.0, count=32, setting="trainer.micro_batch_size")
    assert memory.peak == 74
    assert [memory.fitting(limit) for limit in (11, 12, 27, 1000)] == [None, 1, 8, 32]
    assert Memory(fixed=10.0).fitting(1000) is None


def corpus_of(**source):
    return CorpusSettings(
        sources={"web": HubSource(path="someone/web", **source)}, tokenizer=TokenizerSettings(vocabulary=50304),
        block_length=2048, validation=0.04, test=0.01,
    )  # fmt: skip


def test_the_size_of_a_corpus_that_is_not_here_is_that_of_its_limit_or_what_is_said():
    size = estimated_size(corpus_of(limit=1000, mean_tokens=2048))
    assert size.blocks == {"train": 950, "validation": 40, "test": 10} and size.documents == 1000
    assert estimated_size(corpus_of(), tokens=204_800).blocks["train"] == 95
    assert estimated_size(corpus_of(limit=1000, mean_tokens=2048), tokens=204_800).documents == 100
    with pytest.raises(ValueError, match=r"^data.sources.web: nothing says how large it is; .* plan.tokens"):
        estimated_size(corpus_of())


def test_texts_are_counted_by_their_characters():
    size = CorpusSize({"train": 3, "test": 1}, 10, 8, 50, characters=4.0, source="")
    assert size.tokens() == 32 and size.tokens("test") == 8 and size.tokens_of(["a" * 40, ""]) == 12


def test_models_that_are_read_are_planned_in_the_dtype_that_they_are_read_in(monkeypatch):
    given = {"batch_size": 8, "count": 80, "length": 16, "setting": None}
    assert [one.dtype for one in reading(SHAPE, **given).passes] == ["float32"]
    assert [one.dtype for one in reading(SHAPE, **given, dtype="bfloat16").passes] == ["bfloat16"]
    assert [one.dtype for one in reading(SHAPE, **given, dtype="auto").passes] == ["float32"], "small"
    monkeypatch.setattr(typical, "LEAST_PARAMETERS", SHAPE.parameters)
    written = generating(
        SHAPE, prompts=2, samples=3, new=4, length=5, rows=6, setting=None, auxiliaries=[SHAPE], dtype="auto"
    )
    assert [one.dtype for one in written.passes] == ["auto", "auto"]
