"""What happens to a model after its training, in stages: one function per kind of post-training."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ifguide.methods.attribute_control import AttributeControl
from ifguide.methods.dpo import DPO
from ifguide.stages.attribute_control import ControlledModel
from ifguide.stages.auxiliary import PostTrained, Reference
from ifguide.stages.guidance import Guidance
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


def guided(planner: "Planner", role: str, key: str, model: Stage, start: Stage | None = None) -> Stage:
    """R̂ of a model, with its samples and who judges them.

    Args:
        planner: makes the stages.
        role: of all of them, before `guidance`, `samples` and `judged_samples`.
        key: of the settings of R̂, which have a `sampling` and a `classifier`.
        model: who writes the samples, and whose hidden states R̂ reads.
        start: what has the R̂ that is continued; None: it begins anew.
    """
    written, role = planner.samples(role, model, key), f"{role}guidance"
    return planner.add(
        role, Guidance, {"training": key}, data=planner.data, model=model, start=start, **written,
        training=planner.part(key), prompts=len(written["samples"].prompts), loading=planner.part("model"),
        **planner.training(role),
    )  # fmt: skip


def controlled(planner: "Planner", settings: AttributeControl, trained: Stage) -> Stage:
    key, before, model = "post_training.guidance", trained, trained
    guidance: Stage | None = None  # of `model`
    shared = {"data": planner.data, "post_training": settings, "loading": planner.part("model")}
    for number in range(1, settings.rounds + 1):
        place = f"round{number}."
        written: dict[str, Any] = {}
        if guidance is None or not settings.parallel:
            guidance = guided(planner, place, key, model, guidance)
        if settings.parallel:  # what the model of two rounds before wrote
            written = planner.samples(place, before, key)
        role = "model" if number == settings.rounds else f"{place}model"
        made = planner.add(
            role, ControlledModel, model=model, guidance=guidance, **written, round_=number, **shared,
            **planner.training(role),
        )  # fmt: skip
        before, model = model, made
        guidance = made if settings.parallel else guidance
    return model


# settings → what makes the stages of (planner, settings, the trained model); the last of them has the role `model`
STAGES_OF: Mapping[type, Callable[["Planner", Any, Stage], Stage]] = {
    DPO: preference,
    AttributeControl: controlled,
}
