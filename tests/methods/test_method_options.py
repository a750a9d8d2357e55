"""What the groups of methods and optimisations compose: each stands once and can be changed in one place."""

import pytest
import torch
from composing import CONF, composed
from hydra.utils import instantiate

from ifguide.training.schedules import Constant, Cosine
from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import describe

OPTIMISATIONS = sorted(path.stem for path in (CONF / "optim").glob("*.yaml") if path.stem != "base")


def built(key, *overrides):
    return instantiate(composed(*overrides)[key], _convert_="all")


@pytest.mark.parametrize("option", OPTIMISATIONS)
def test_every_optimisation_can_be_built_and_described(option):
    optim = built("optim", f"optim={option}")
    optimizer, _ = optim.configure([("weight", torch.nn.Parameter(torch.zeros(2, 2)))], 10)
    assert isinstance(optimizer, torch.optim.Optimizer) and describe(optim)["optimizer"]["call"]


@pytest.mark.parametrize("optimizer", sorted(path.stem for path in (CONF / "optim" / "optimizer").glob("*.yaml")))
@pytest.mark.parametrize("schedule", sorted(path.stem for path in (CONF / "optim" / "schedule").glob("*.yaml")))
def test_every_optimiser_goes_with_every_schedule(optimizer, schedule):
    made = built("optim", f"optim/optimizer={optimizer}", f"optim/schedule={schedule}")
    made.configure([("weight", torch.nn.Parameter(torch.zeros(2, 2)))], 10)
    assert made.schedule.warmup == 0.05, "what the optimisation says of the schedule"


def test_dpo_as_it_was_published():
    optim = built("post_training", "method=dpo", "optim@post_training.optim=dpo", "post_training.optim.epochs=2").optim
    assert optim.optimizer.func is torch.optim.RMSprop and optim.schedule == Constant(warmup_steps=150)
    assert (optim.learning_rate, optim.batch_size, optim.epochs, optim.clip) == (1e-6, 4, 2, 10.0)


def test_the_optimisations_of_the_sample_are_what_they_were():
    """Peak, batch, epochs, decay, clip, warm-up."""
    for key, overrides, expected in (
        ("optim", ["optim=sample"], (3e-3, 16, 3, 0.01, 1.0, 0.05)),
        ("optim", ["optim=sample_proxy"], (3e-3, 16, 1, 0.01, 1.0, 0.05)),
        ("optim", ["optim=pretrain"], (6e-4, 256, 4, 4e-4, 1.0, 0.01)),
        ("optim", ["optim=finetune"], (6e-5, 256, 1, 4e-4, 1.0, 0.01)),
        ("decoding.reward", ["decoding=rad"], (1e-3, 16, 3, 0.01, 2.0, 0.1)),
        ("decoding.experts", ["decoding=dexperts"], (1e-3, 16, 3, 0.01, 1.0, 0.1)),
        ("post_training", ["post_training=dpo"], (5e-5, 16, 1, 0.0, 10.0, 0.1)),
    ):
        group, _, part = key.partition(".")
        made = built(group, *overrides)
        optim = made if group == "optim" else getattr(made, part).optim if part else made.optim
        found = (optim.learning_rate, optim.batch_size, optim.epochs, optim.weight_decay, optim.clip)
        assert (*found, optim.schedule.warmup) == expected and optim.schedule == Cosine(warmup=expected[-1])
        assert optim.optimizer.func is torch.optim.AdamW
        assert optim.optimizer.keywords == {"betas": [0.9, 0.95], "eps": 1e-8, "fused": True}


def test_the_trainer_takes_lightnings_own_arguments_beside_ours():
    found = built("trainer", "trainer.devices=2", "+trainer.profiler=simple", "+trainer.deterministic=true")
    assert isinstance(found, TrainerSettings) and found.devices == 2
    assert found.lightning == {"profiler": "simple", "deterministic": True}
    with pytest.raises(Exception, match=r"profilr=simple: no argument .* known: .*profiler"):
        built("trainer", "+trainer.profilr=simple")
    strategy = built("trainer", "trainer.strategy={_target_: pytorch_lightning.strategies.DDPStrategy}").strategy
    assert type(strategy).__name__ == "DDPStrategy"


def test_decoders_describe_themselves_without_what_decides_nothing():
    found = describe(built("decoding", "decoding=rad"))
    assert set(found) == {"class", "reward", "top_k", "beta"} and found["reward"]["class"] == "RewardTraining"
    assert set(describe(built("decoding", "decoding=dexperts"))) == {"class", "experts", "alpha", "top_p"}
