from functools import partial
from math import cos, pi

import pytest
import torch
from tiny import tiny_model
from torch.optim.lr_scheduler import LambdaLR

from ifguide.training.optimization import Optimization
from ifguide.training.schedules import Constant, Cosine, Linear
from ifguide.workspace import describe


def optimization(**options):
    return Optimization(**(dict(learning_rate=1e-2, batch_size=4, epochs=0.5) | options))


def test_a_corpus_too_small_for_a_step_is_refused():
    with pytest.raises(ValueError, match=r"^batch_size=256: .* less than half a step"):
        optimization(batch_size=256, epochs=1).steps(100)


@pytest.mark.parametrize(
    "options", [{"learning_rate": 0}, {"batch_size": 0}, {"epochs": -1}, {"weight_decay": -1}, {"clip": 0}]
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
        optimization(**options)


def test_schedule_warms_up_and_decays():
    optimizer, schedule = optimization(schedule=Cosine(warmup=0.2)).configure(tiny_model().named_parameters(), 10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:2] == pytest.approx([0.005, 0.01]) and rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    decay = {group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {0.0, 4e-4} and all(p.ndim < 2 for p in optimizer.param_groups[1]["params"])


def rates(schedule, steps):
    return [schedule.rate(step, steps) for step in range(steps)]


def test_schedules():
    assert rates(Constant(warmup_steps=3), 6) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    assert rates(Constant(), 3) == [1, 1, 1]
    assert rates(Linear(warmup=0.2, final=0.5), 10) == pytest.approx([0.5, 1] + [1 - n / 16 for n in range(8)])
    assert rates(Cosine(final=0.1), 4)[2] == pytest.approx(0.1 + 0.9 / 2)
    assert rates(Constant(warmup_steps=150), 100)[-1] == pytest.approx(2 / 3)


def losses_of(optimizer, schedule, model):
    found = []
    for _ in range(12):
        loss = model(torch.arange(9)[None]).logits.square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        found.append((loss.item(), optimizer.param_groups[0]["lr"]))
    return found


def test_adamw_with_a_cosine_is_its_formula_to_the_last_bit():
    steps, rate, decay, warmup_share, final = 12, 3e-3, 0.01, 0.2, 0.1
    ours, plain = (tiny_model(dtype=torch.float32) for _ in range(2))
    found = optimization(learning_rate=rate, weight_decay=decay, schedule=Cosine(warmup=warmup_share, final=final))
    expected = torch.optim.AdamW(
        [
            {"params": [p for p in plain.parameters() if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in plain.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=rate, betas=(0.9, 0.95), eps=1e-8, fused=True,
    )  # fmt: skip
    warmup = round(warmup_share * steps)

    def cosine(step):
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
        return final + (1 - final) * 0.5 * (1 + cos(pi * progress))

    one = losses_of(*found.configure(ours.named_parameters(), steps), ours)
    assert one == losses_of(expected, LambdaLR(expected, cosine), plain)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("made", [torch.optim.RMSprop, partial(torch.optim.SGD, momentum=0.9), torch.optim.NAdam])
def test_any_optimiser_of_torch_decays_matrices_only(made):
    optimizer, _ = optimization(optimizer=made, weight_decay=0.3).configure(tiny_model().named_parameters(), 10)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0]
    optimizer, _ = optimization(weight_decay=0).configure(tiny_model().named_parameters(), 10)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0], "AdamW's own default is not 0"
    plain, _ = optimization(optimizer=torch.optim.Rprop, weight_decay=0).configure(tiny_model().named_parameters(), 10)
    assert isinstance(plain, torch.optim.Rprop)


@pytest.mark.parametrize(
    "optimizer, message",
    [
        (partial(torch.optim.RMSprop, betas=[0.9, 0.95]), r"^optimizer\.betas=.*takes alpha, eps"),
        (partial(torch.optim.AdamW, lr=0.1), r"^optimizer\.lr=0.1: .*learning_rate"),
        (partial(torch.optim.AdamW, weight_decay=0.1), r"^optimizer\.weight_decay=0.1"),
        (torch.optim.Rprop, r"^weight_decay=0.0004: .*set it to 0"),
    ],
)
def test_arguments_that_an_optimiser_does_not_take_are_refused(optimizer, message):
    with pytest.raises(ValueError, match=message):
        optimization(optimizer=optimizer)


@pytest.mark.parametrize(
    "options", [{"warmup": 2}, {"warmup": 0.1, "warmup_steps": 3}, {"warmup_steps": -1}, {"final": 2.0}]
)
def test_schedules_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
        Cosine(**options)


def test_steps_may_be_said_whatever_the_blocks_are():
    said = optimization(max_steps=7)
    assert (said.steps(100), said.steps(1), said.expected_steps(5.0)) == (7, 7, 7)
    assert (optimization().steps(100), optimization().expected_steps(100.0)) == (12, 12.5)
    for options, message in (({"max_steps": 0}, "^max_steps=0: "), ({"max_steps": 2, "epochs": 0}, "^max_steps=2: ")):
        with pytest.raises(ValueError, match=message):
            optimization(**options)


def test_an_optimisation_describes_itself():
    found = describe(optimization())
    assert "max_steps" not in found and describe(optimization(max_steps=3))["max_steps"] == 3
    assert found["optimizer"] == {"call": "AdamW", "betas": [0.9, 0.95], "eps": 1e-8, "fused": True}
    assert found["schedule"] == {"class": "Cosine", "warmup": 0.01, "warmup_steps": None, "final": 0.0}
    assert describe(optimization(schedule=Linear(warmup=0.01))) != found
