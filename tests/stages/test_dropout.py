"""With dropout, how a batch is split decides the weights, so it decides the fingerprint; without, it does not."""

import pytest
from rows import Row

DROPOUT = "+model.settings.hidden_dropout=0.1"


def fingerprint(folder, role, *overrides):
    plan = Row(folder, *overrides, "optim.batch_size=8").plan
    return plan.roles[role].fingerprint, plan.roles[role].settings.get("micro_batches")


def test_a_model_with_dropout_is_of_its_micro_batches(tmp_path):
    whole, one = fingerprint(tmp_path, "model", "method=none", DROPOUT, "trainer.micro_batch_size=8")
    more, _ = fingerprint(tmp_path, "model", "method=none", DROPOUT, "trainer.micro_batch_size=16")
    half, two = fingerprint(tmp_path, "model", "method=none", DROPOUT, "trainer.micro_batch_size=4")
    assert whole == more != half and (one, two) == (None, [2, 1])
    processes = [DROPOUT, "trainer.micro_batch_size=4", "trainer.devices=2"]
    assert fingerprint(tmp_path, "model", "method=none", *processes) != (half, two)


@pytest.mark.parametrize("role, overrides", [("model", ["method=none"]), ("auxiliary.reward", ["method=rad"])])
def test_one_without_is_not(role, overrides, tmp_path):
    sizes = [f"trainer.micro_batch_size={size}" for size in (8, 2)]
    both = [fingerprint(tmp_path, role, *overrides, "decoding.reward.optim.batch_size=8" if role != "model" else
                        "seed=0", size) for size in sizes]  # fmt: skip
    assert both[0] == both[1] and both[0][1] is None


def test_an_auxiliary_model_with_dropout_is_too(tmp_path):
    given = ["method=rad", "+proxy.settings.hidden_dropout=0.1", "decoding.reward.optim.batch_size=8"]
    split = [fingerprint(tmp_path, "auxiliary.reward", *given, f"trainer.micro_batch_size={n}")[1] for n in (8, 2)]
    assert split == [None, [4, 1]]
