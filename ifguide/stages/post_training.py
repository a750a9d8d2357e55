"""What happens to a model after its training, in stages: one function per kind of post-training."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ifguide.methods.dpo import DPO
from ifguide.stages.auxiliary import PostTrained, Reference
from ifguide.stages.stage import Stage

if TYPE_CHECKING:
    from ifguide.stages.planner import Planner


def preference(planner: "Planner", settings: DPO, trained: Stage) -> Stage:
    pairs, training = planner.part("pairs"), planner.training("post_training")
    shared = {"data": planner.data, "model": trained, "pairs": pairs, "loading": planner.part("model")}
    reference = planner.add("reference", Reference, max_length=settings.max_length, **shared, **training)
    return planner.add(
        "model", PostTrained, reference=reference, post_training=settings, **shared, setup=training["setup"]
    )


# settings → what makes the stages of (planner, settings, the trained model); the last of them has the role `model`
STAGES_OF: Mapping[type, Callable[["Planner", Any, Stage], Stage]] = {
    DPO: preference,
}
