"""What a plan says of its cost, beside what it then takes."""

import re
import time
from dataclasses import replace

import pytest
import torch
from rows import Row
from torch.utils.flop_counter import FlopCounterMode

from ifguide.cost import CorpusSize
from ifguide.cost.corpus import estimated_size, found_size
from ifguide.cost.devices import ThisMachine, named_device
from ifguide.stages import costing
from ifguide.stages.costing import PlanCost, advice, cost_of, recorded_seconds
from ifguide.stages.data import Data
from ifguide.stages.listing import plan_table
from ifguide.stages.stage import Inputs

H100 = named_device("h100", 0.4)
SMALL = 12 * 1024  # bytes of headers, configuration files, and of what a small tokenizer differs by


def planned(row, **options):
    return cost_of(row.plan, row.workspace, H100, is_here=False, **options)


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    """Built up to the mask."""
    return Row(tmp_path_factory.mktemp("costs"), "stage=mask", "pooling=none").run()


def test_every_stage_of_a_row_says_its_work(tmp_path):
    pytest.importorskip("profanity_check")
    row = Row(tmp_path)
    cost = planned(row)
    assert set(cost.stages) == {row.plan.role_of(stage) for stage in row.plan.stages}
    assert all(one.work is not None and one.seconds is not None for one in cost.stages.values())
    computed = {role for role, one in cost.stages.items() if one.work.flops}
    assert computed == {
        "proxy", "factors", "direction.toxicity", "scores", "model", "generations.toxicity", "perplexity"
    }  # fmt: skip
    lines = plan_table(row.plan, row.workspace, {}, {}, cost).splitlines()
    assert re.search(r"proxy +to build +model-\w+ +[\d.]+ GFLOP +0 s +[\d.]+ MiB +\d+ KiB  h100", "\n".join(lines))
    assert any(line.startswith("memory ") and " fits: " in line for line in lines)
    assert "device-hours" in "".join(lines) and "estimated from the files and limits" in "".join(lines)


def test_several_devices_share_what_all_of_them_build(tmp_path):
    row = Row(tmp_path, "stage=mask")
    one, four = planned(row), planned(row, devices=4)
    for role in ("proxy", "factors", "scores"):
        assert four.stages[role].seconds == pytest.approx(one.stages[role].seconds / 4), role
    assert four.stages["mask"].seconds == one.stages["mask"].seconds


def test_an_estimate_of_the_sample_is_near_its_count(row):
    estimated, counted = estimated_size(row.plan.named(Data)["data"].corpus), found_size(row.path("data"))
    assert estimated.tokens() == pytest.approx(counted.tokens(), rel=0.2)
    assert counted.blocks["train"] == len(row.corpus.split("train"))


@pytest.mark.parametrize("role", ["data", "proxy", "factors", "direction.toxicity", "scores", "mask"])
def test_disk_is_that_of_the_artifact(row, role):
    work = row.plan.roles[role].work(found_size(row.path("data")))
    files = row.made[role].manifest["files"].values()
    assert sum(file["size"] for file in files) == pytest.approx(work.disk, rel=0.05, abs=SMALL)


def test_what_is_found_costs_nothing_and_what_was_like_it_tells_its_seconds(row):
    assert not planned(row).stages
    other = Row(row.folder.parent, "stage=mask", "pooling=none", "proxy.seed=1")
    recorded = row.made["proxy"].manifest["seconds"]
    assert recorded_seconds(other.workspace, other.plan.roles["proxy"]) == recorded
    cost = cost_of(other.plan, other.workspace, H100, is_here=True)
    assert (cost.stages["proxy"].seconds, cost.stages["proxy"].basis) == (recorded, "recorded")
    longer = Row(row.folder.parent, "stage=mask", "pooling=none", "proxy_optim.epochs=2")
    assert recorded_seconds(longer.workspace, longer.plan.roles["proxy"]) is None


def test_what_does_not_fit_names_the_setting_as_it_is_typed(tmp_path):
    row = Row(tmp_path, "stage=mask")
    cost = planned(row)
    work = cost.stages["proxy"].work
    limit = work.memory.fixed + 4 * work.memory.each
    tight = PlanCost(cost.stages, cost.corpus, 1, "h100", limit, cost.most_stored - 1)
    lines = "\n".join(line for _, line in advice(row.plan, tight, row.workspace.root))
    assert "proxy needs" in lines and "trainer.micro_batch_size=4 would do" in lines
    assert "are free; choose another paths.workspace" in lines
    roomy = PlanCost(cost.stages, cost.corpus, 1, "h100", 2 * limit + 1e12, cost.most_stored)
    found = [(what, line.split(":")[0]) for what, line in advice(row.plan, roomy, row.workspace.root)]
    assert found == [("memory", "fits"), ("disk", "fits")]


def test_a_model_that_is_not_here_is_not_known_and_the_others_are(tmp_path):
    cost = planned(Row(tmp_path, "stage=model", "method=none", "model.pretrained=/no/such/model"))
    assert cost.stages["model"].work is None and cost.stages["model"].basis.startswith("not known: ")
    assert cost.stages["data"].seconds > 0


def test_what_other_hardware_took_is_not_recorded_for_this(row, monkeypatch):
    other = Row(row.folder.parent, "stage=mask", "pooling=none", "proxy.seed=1")
    stage = other.plan.roles["proxy"]
    assert recorded_seconds(other.workspace, stage, devices=2) is None
    monkeypatch.setattr(costing, "describe_environment", lambda: {"hardware": {"processor": "another"}})
    assert recorded_seconds(other.workspace, stage) is None


def test_constants_go_with_the_pace_of_the_machine(tmp_path):
    row = Row(tmp_path, "stage=mask")
    found = [cost_of(row.plan, row.workspace, replace(H100, pace=pace), is_here=False) for pace in (1.0, 0.5)]
    seconds = [{role: cost.stages[role].seconds for role in ("data", "mask", "scores")} for cost in found]
    assert seconds[1] == {
        "data": seconds[0]["data"] / 2, "mask": seconds[0]["mask"] / 2, "scores": seconds[0]["scores"],
    }  # fmt: skip
    assert 0.01 < ThisMachine(torch.device("cpu")).pace < 100


def test_memory_that_a_micro_batch_decides_names_it_and_other_memory_says_no_row(tmp_path):
    """Of the frozen reference of DPO; and of what no setting decides."""
    row = Row(tmp_path, "stage=model", "method=dpo")
    stages = {"reference": planned(row).stages["reference"]}
    memory = stages["reference"].work.memory
    assert memory.setting == "trainer.micro_batch_size" and memory.count == row.plan.roles[
        "reference"
    ].setup.trainer.micro_batch_size  # fmt: skip
    tight = PlanCost(stages, CorpusSize({}, 0, 1, 1, 1.0, ""), 1, "h100", memory.fixed + 2 * memory.each, 1e12)
    assert "trainer.micro_batch_size=2 would do" in advice(row.plan, tight, tmp_path)[0][1]
    undecided = replace(stages["reference"].work, memory=replace(memory, setting=None))
    tight = replace(tight, stages={"reference": replace(stages["reference"], work=undecided)})
    assert "for a single row" not in advice(row.plan, tight, tmp_path)[0][1]


def test_recomputed_activations_take_less_memory_and_another_pass(tmp_path):
    options = [f"trainer.gradient_checkpointing={on}" for on in ("false", "true")]
    rows = [Row(tmp_path, "stage=model", "method=none", option) for option in options]
    plain, again = (planned(row).stages["model"].work for row in rows)
    assert again.memory.each < plain.memory.each and 1.1 * plain.flops < again.flops < 1.5 * plain.flops


def test_what_another_model_took_is_not_recorded_for_this_one(row):
    """The passes over a larger model take longer, though the stage that makes them has the same settings."""
    wider = Row(row.folder.parent, "stage=mask", "pooling=none", "proxy.settings.hidden_size=32")
    retrained = Row(row.folder.parent, "stage=mask", "pooling=none", "proxy_optim.learning_rate=0.01")
    for role in ("factors", "scores"):
        took = row.made[role].manifest["seconds"]
        assert recorded_seconds(wider.workspace, wider.plan.roles[role]) is None
        assert recorded_seconds(retrained.workspace, retrained.plan.roles[role]) == took


@pytest.mark.slow
def test_seconds_are_of_the_right_size(tmp_path):
    """Within a factor of three, in seconds of this process, whatever else the machine does."""
    row = Row(
        tmp_path, "stage=proxy", "proxy.settings.hidden_size=128", "proxy.settings.intermediate_size=512",
        "proxy_optim.epochs=3",
    )  # fmt: skip
    stage = row.plan.roles["proxy"]
    data = row.plan.roles["data"].make(row.workspace, {})
    machine = ThisMachine(torch.device("cpu"), clock=time.process_time)
    expected = sum(machine.seconds(one) for one in stage.work(found_size(data.path)).passes)
    start = time.process_time()
    stage.make(row.workspace, {"data": data})
    assert expected / 3 < time.process_time() - start < expected * 3 + 1.0


@pytest.fixture(scope="module")
def eager(tmp_path_factory):
    """Where models lie whose products are all counted."""
    return tmp_path_factory.mktemp("eager")


@pytest.mark.parametrize(
    "overrides, near",
    [
        (
            ["method=lancet", "post_training.rank=random", "post_training.optim.epochs=0.5"],
            0.01,
        ),  # models are checked with a few tokens
        (["method=rl", "post_training.sampling.max_new_tokens=6"], 0.15),  # as long as its prompts are
        (
            [
                "method=attribute_control",
                "post_training.rounds=1",
                "post_training.frozen_teacher=true",
                "post_training.optim.epochs=0.25",
            ],
            0.15,
        ),  # R̂
    ],
    ids=["lancet", "rl", "attribute_control"],
)
def test_post_training_takes_the_products_that_it_says(eager, tmp_path, overrides, near):
    pytest.importorskip("profanity_check")
    row = Row(eager, "stage=model", "model.attention=eager", *overrides).check()
    made = {}

    def inputs(stage):
        return {key: made[one.fingerprint] for key, one in stage.inputs.items()}

    *before, stage = row.plan.stages
    for one in before:
        made[one.fingerprint] = one.make(row.workspace, inputs(one))
    with FlopCounterMode(display=False) as counter:
        stage.build(tmp_path, Inputs(inputs(stage)))
    data = row.plan.roles["data"]
    assert stage is row.plan.roles["model"] and len(before) > 1
    work = stage.work(found_size(made[data.fingerprint].path))
    assert work.flops == pytest.approx(counter.get_total_flops(), rel=near)


METHODS = ["none", "ifguide", "dpo", "simpo", "rl", "lancet", "attribute_control", "task_vector", "nado", "conditional"]


@pytest.mark.parametrize("method", METHODS)
def test_every_stage_of_a_method_says_its_work(tmp_path, method):
    pytest.importorskip("profanity_check")
    cost = planned(Row(tmp_path, f"method={method}"))
    assert not [role for role, one in cost.stages.items() if one.work is None]
