"""A stage is a value: it is made in three lines, knows its fingerprint, and holds nothing that it builds."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest
from tiny import tiny_documents, tiny_tokenizer

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.build import CorpusSettings
from ifguide.influence.chain import InfluenceSettings
from ifguide.influence.scorers import JVP
from ifguide.influence.selection import Algorithm1
from ifguide.models import ModelSettings
from ifguide.stages import (
    auxiliary,
    classifiers,
    data,
    evaluation,
    export,
    filtering,
    generation,
    influence,
    judging,
    tagging,
    training,
)
from ifguide.stages.data import Data
from ifguide.stages.influence import Mask, Scores
from ifguide.stages.run import next_of
from ifguide.stages.stage import KIND, Existing, Plan, Stage, closure, late_setting, made_from, setting, speed
from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import ArtifactError, Workspace
from ifguide.workspace.locks import locked

FILES = (auxiliary, classifiers, data, evaluation, export, filtering, generation, influence, judging, tagging, training)
STAGES = [
    one
    for module in FILES
    for one in vars(module).values()
    if isinstance(one, type) and issubclass(one, Stage) and one is not Stage and one.__module__ == module.__name__
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Text(Stage):
    name: ClassVar = "text"
    version: ClassVar = 1

    before: Stage | None = made_from(None)
    parts: dict[str, Stage] = made_from({})
    text: str = setting()
    tail: str = late_setting("")
    loud: bool = speed(False)

    def build(self, folder, inputs):
        before = (inputs["before"] / "text").read_text() if "before" in inputs else ""
        parts = "".join(f"{key}:{(path / 'text').read_text()}" for key, path in inputs.each("parts").items())
        (folder / "text").write_text(before + parts + self.text + self.tail)
        return {"length": len(self.text)}


def make(workspace, stage):
    made = {}
    for one in closure(stage):
        inputs = {key: made[child.fingerprint] for key, child in one.inputs.items()}
        made[one.fingerprint] = one.make(workspace, inputs)
    return made[stage.fingerprint]


def test_a_stage_is_made_in_three_lines_without_a_configuration(tmp_path):
    settings = CorpusSettings(sources={"tiny": tiny_documents()}, tokenizer=tiny_tokenizer, block_length=16, test=0.1)
    corpus = Corpus(Data(corpus=settings).make(Workspace(tmp_path), {}).path)
    assert len(corpus.split("train")) > 0

    mask = Mask(scores=Text(text="scores"), data=Data(corpus=settings), behaviours=["b"], selection=Algorithm1())
    assert mask.settings == {
        "selection": {"class": "Algorithm1", "quantile": 0.99, "limit": 0.02, "window": 1, "unit": "block"}
    }


def test_settings_and_inputs_decide_the_fingerprint_and_speed_does_not():
    base = Text(text="a")
    assert Text(text="a", loud=True).fingerprint == base.fingerprint == Text(text="a", tail="").fingerprint
    others = [Text(text="b"), Text(text="a", tail="!"), Text(text="a", before=base), Text(text="a", parts={"x": base})]
    assert len({one.fingerprint for one in (base, *others)}) == 5
    assert Text(text="a", parts={"y": base}).fingerprint != others[-1].fingerprint


def test_what_is_asked_for_is_a_stage_and_its_closure(tmp_path):
    first, same = Text(text="a"), Text(text="a")
    last = Text(text="c", before=Text(text="b", before=first), parts={"x": same, "y": Text(text="d")})
    assert [one.text for one in closure(last)] == ["a", "b", "d", "c"]
    workspace = Workspace(tmp_path)
    assert not last.is_in(workspace)
    artifact = make(workspace, last)
    assert (artifact.path / "text").read_text() == "abx:ay:dc" and artifact.manifest["facts"] == {"length": 1}
    assert last.is_in(workspace) and make(workspace, last).reused
    assert set(artifact.manifest["inputs"]) == {"before", "parts.x", "parts.y"}


def test_while_another_run_builds_a_stage_those_that_do_not_need_it_are_made(tmp_path):
    workspace, first, other = Workspace(tmp_path), Text(text="a"), Text(text="b")
    pending = [first, other, Text(before=first, text="c"), Text(parts={"x": first, "y": other}, text="d")]
    assert next_of(pending, {}, workspace) is first
    with locked(tmp_path, first.place(workspace).name):
        assert next_of(pending, {}, workspace) is other
        assert next_of([first, *pending[2:]], {other.fingerprint}, workspace) is first, "nothing else can be made"
        with locked(tmp_path, other.place(workspace).name):
            assert next_of(pending, {}, workspace) is first
    first.make(workspace, {})
    with locked(tmp_path, first.place(workspace).name):  # it waits, and will find it
        assert next_of(pending, {}, workspace) is first


def test_an_artifact_of_another_run_is_a_stage_like_any_other(tmp_path):
    workspace = Workspace(tmp_path / "w")
    made = make(workspace, Text(text="a"))
    foreign = Existing(folder=made.path, stage="text")
    foreign.check()
    assert foreign.fingerprint == made.fingerprint
    after = Text(text="b", before=foreign)
    assert after.fingerprint == Text(text="b", before=Text(text="a")).fingerprint
    assert (make(Workspace(tmp_path / "other"), after).path / "text").read_text() == "ab"
    with pytest.raises(ArtifactError, match="where a `mask` is needed"):
        Existing(folder=made.path, stage="mask").check()
    with pytest.raises(ArtifactError, match="not from `data`"):
        foreign.made_of("data")


@dataclass(frozen=True, kw_only=True, eq=False)
class Refusing(Text):
    def check(self):
        raise ValueError(self.text)


@pytest.mark.parametrize(
    "message, shown",
    [
        ("text.size=3: too small", "my.text.size=3: too small"),
        ("text=3: too small", "my.text=3: too small"),
        ("text: too small", "my.text: too small"),
        ("other=3: too small", "other=3: too small"),
        ("textual", "textual"),
    ],
)
def test_mistakes_name_the_setting_as_it_was_typed(message, shown):
    stage = Refusing(text=message)
    with pytest.raises(ValueError) as error:
        Plan((stage,), {"role": stage}, {"role": {"text": "my.text"}}).check()
    assert str(error.value) == shown


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_every_field_says_what_it_is_and_every_stage_has_a_name_and_a_version(stage):
    assert len(STAGES) >= 18
    assert stage.name == stage.name.lower() and stage.version >= 1
    assert all(KIND in one.metadata for one in fields(stage))
    assert stage.__doc__ and not stage.__doc__.startswith(f"{stage.__name__}(")


@pytest.mark.parametrize("dtype, kept", [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_scores_of_auto_are_kept_as_float32s_with_which_they_agree(dtype, kept):
    made = {name: Existing(folder=Path(name), stage=name) for name in ("proxy", "data", "direction")}
    scores = Scores(
        directions={"toxicity": made["direction"]}, proxy=made["proxy"], data=made["data"], scorer=JVP(),
        influence=InfluenceSettings(dtype=dtype), loading=ModelSettings(pretrained="model"), trainer=TrainerSettings(),
    )  # fmt: skip
    assert scores.derived_settings() == {"dtype": kept}
