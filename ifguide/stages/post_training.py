"""What happens to a model after its training, in stages: one function per kind of post-training."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ifguide.checks import argument
from ifguide.methods.attribute_control import AttributeControl
from ifguide.methods.dpo import DPO
from ifguide.methods.lancet import Lancet
from ifguide.methods.rl import PolicyGradient
from ifguide.methods.task_vector import TaskVector
from ifguide.stages.attribute_control import ControlledModel
from ifguide.stages.auxiliary import AuxiliaryModel, PostTrained, Reference
from ifguide.stages.guidance import Guidance
from ifguide.stages.influence import Direction, Factors, Scores
from ifguide.stages.lancet import Corrected, InfluenceOfSequences, JudgedSequences, RandomSequences, SampledDirection
from ifguide.stages.policy_gradient import PolicyTrained
from ifguide.stages.scoring import refuse
from ifguide.stages.stage import Stage
from ifguide.stages.task_vector import Negated

if TYPE_CHECKING:
    from ifguide.stages.planner import Planner


def preference(planner: "Planner", settings: DPO, trained: Stage) -> Stage:
    pairs, training = planner.part("pairs"), planner.training("post_training")
    shared = {"data": planner.data, "model": trained, "pairs": pairs, "loading": planner.part("model")}
    reference = None
    if settings.reference:
        reference = planner.add("reference", Reference, max_length=settings.max_length, **shared, **training)
    return planner.add(
        "model", PostTrained, reference=reference, post_training=settings, **shared, setup=training["setup"]
    )


def policy_gradient(planner: "Planner", settings: PolicyGradient, trained: Stage) -> Stage:
    judge = planner.classifier("post_training.classifier", "classifier.post_training")
    prompts = settings.sampling.prompts([query for queries in planner.behaviours.values() for query in queries])
    return planner.add(
        "model", PolicyTrained, data=planner.data, model=trained, classifier=judge["classifier"], judge=judge["judge"],
        post_training=settings, prompts=prompts, loading=planner.part("model"), **planner.training("post_training"),
    )  # fmt: skip


def negation(planner: "Planner", settings: TaskVector, trained: Stage) -> Stage:
    shared = {"data": planner.data, "loading": planner.part("model")}
    with argument("labelled"):
        labelled = list(planner.part("labelled"))
    toxic = planner.add(
        "anti-expert", AuxiliaryModel, {"training": "post_training.anti_expert"}, start=trained,
        training=settings.anti_expert, labelled=labelled, **shared, **planner.training("anti-expert"),
    )  # fmt: skip
    return planner.add(
        "model", Negated, {"alpha": "post_training.alpha"}, model=trained, toxic=toxic, alpha=settings.alpha, **shared
    )


def corrected(planner: "Planner", settings: Lancet, trained: Stage) -> Stage:
    by = {"influence": by_influence, "classifier": by_classifier, "random": by_chance}
    return planner.add(
        "model", Corrected, data=planner.data, model=trained, sequences=by[settings.rank](planner, settings, trained),
        post_training=settings, loading=planner.part("model"), **planner.training("post_training"),
    )  # fmt: skip


def by_influence(planner: "Planner", settings: Lancet, trained: Stage) -> Stage:
    """Scores of sequences along the direction of the toxic queries, at the trained model, which is its own proxy.

    Raises:
        ValueError: what this chain does not have is asked of it.
    """
    refuse(planner, "post_training=lancet", "refine", "student")
    if hasattr(planner.part("scorer"), "reads"):
        raise ValueError("scorer: sequences are ranked by influence here; choose a scorer of it, as jvp, or "
                         "post_training.rank=classifier")  # fmt: skip
    if settings.length is not None and not planner.part("scorer").OWN_LOSS:
        raise ValueError(
            f"post_training.length={settings.length}: its tokens' own losses are summed, which this scorer cannot tell "
            "apart; choose another, as scorer=jvp, or null, which is the whole block"
        )
    chosen = {"influence": planner.part("influence"), "loading": planner.part("model"), **planner.placed}
    shared: dict[str, Any] = {"data": planner.data, **chosen}
    curvature = planner.part("curvature")
    factors = planner.add("lancet.factors", Factors, proxy=trained, curvature=curvature, **shared)
    found: dict[str, Any] = {"factors": factors, "curvature": curvature, **shared}
    if settings.queries == "labelled":
        queries = [query for all_ in planner.behaviours.values() for query in all_ if query.toxic]
        direction: Stage = planner.add(
            "lancet.direction", Direction, {"queries": "behaviours"}, proxy=trained, queries=queries, contrast=False,
            **found,
        )  # fmt: skip
    else:
        written = planner.samples("", trained, "post_training")
        direction = planner.add(
            "lancet.direction", SampledDirection, {"threshold": "post_training.threshold"}, model=trained,
            threshold=settings.threshold, **written, **found,
        )  # fmt: skip
    scores = planner.add(
        "lancet.scores", Scores, directions={"queries": direction}, proxy=trained, scorer=planner.part("scorer"),
        **shared,
    )  # fmt: skip
    return planner.add("lancet.sequences", InfluenceOfSequences, scores=scores, length=settings.length)


def by_classifier(planner: "Planner", settings: Lancet, trained: Stage) -> Stage:
    judging = planner.classifier("post_training.classifier", "classifier.post_training")
    return planner.add("lancet.sequences", JudgedSequences, data=planner.data, length=settings.length, **judging)


def by_chance(planner: "Planner", settings: Lancet, trained: Stage) -> Stage:
    return planner.add("lancet.sequences", RandomSequences, data=planner.data, seed=settings.seed)


def guided(
    planner: "Planner", role: str, key: str, model: Stage, start: Stage | None = None, writer: Stage | None = None
) -> Stage:
    """R̂ of a model, with its samples and who judges them.

    Args:
        planner: makes the stages.
        role: of all of them, before `guidance`, `samples` and `judged_samples`.
        key: of the settings of R̂, which have a `sampling` and a `classifier`.
        model: whose hidden states R̂ reads.
        start: what has the R̂ that is continued; None: it begins anew.
        writer: who writes the samples; None: the model.
    """
    written, role = planner.samples(role, writer or model, key), f"{role}guidance"
    return planner.add(
        role, Guidance, {"training": key}, data=planner.data, model=model, start=start, **written,
        training=planner.part(key), prompts=len(written["samples"].prompts), loading=planner.part("model"),
        **planner.training(role),
    )  # fmt: skip


def controlled(planner: "Planner", settings: AttributeControl, trained: Stage) -> Stage:
    guidance: Stage | None = None
    models, late = [trained], int(settings.parallel)  # rounds that R̂ is behind the model, and its samples behind R̂
    shared = {"data": planner.data, "post_training": settings, "loading": planner.part("model")}
    for number in range(1, settings.rounds + 1):
        read, writer = (models[max(number - 1 - behind, 0)] for behind in (late, 2 * late))
        guidance = guided(planner, f"round{number}.", "post_training.guidance", read, guidance, writer)
        role = "model" if number == settings.rounds else f"round{number}.model"
        models.append(
            planner.add(
                role, ControlledModel, model=models[-1], guidance=guidance, round_=number, **shared,
                **planner.training(role),
            )
        )  # fmt: skip
    return models[-1]


# settings → what makes the stages of (planner, settings, the trained model); the last of them has the role `model`
STAGES_OF: Mapping[type, Callable[["Planner", Any, Stage], Stage]] = {
    DPO: preference,
    PolicyGradient: policy_gradient,
    TaskVector: negation,
    Lancet: corrected,
    AttributeControl: controlled,
}
