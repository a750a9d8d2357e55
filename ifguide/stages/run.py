"""A plan, carried out: checked whole, then built stage by stage or found."""

import logging
from collections.abc import Container, Sequence

from ifguide.corpus.blocks import Corpus
from ifguide.report.terminal import relative
from ifguide.stages import rules
from ifguide.stages.findings import said
from ifguide.stages.stage import Plan, Stage
from ifguide.workspace import Artifact, Workspace, global_rank

log = logging.getLogger(__name__)
LONG = 10  # seconds


def carry_out(plan: Plan, workspace: Workspace, made: dict[str, Artifact], *, processes: int = 1) -> None:
    """Check the stages of a plan and what must hold between them, then make them in order; while another run builds
    one, go on with those that do not need it.

    Args:
        plan: the plan.
        workspace: where artifacts are found and built.
        made: filled with role → artifact as they are made.
        processes: of this run, which make each stage together, and so all in the same order.

    Raises:
        ValueError: what a user can get wrong, before anything is trained, and nearly always before anything is built.
    """
    plan.check()
    rules.check_plan(plan)
    if global_rank() == 0 and (missing := [stage for stage in plan.stages if not stage.is_in(workspace)]):
        workspace.check_writable(f"{missing[0].name}-{missing[0].fingerprint}")
    by_fingerprint: dict[str, Artifact] = {}
    pending = list(plan.stages)
    while pending:
        stage = pending[0] if processes > 1 else next_of(pending, by_fingerprint, workspace)
        pending.remove(stage)
        inputs = {key: by_fingerprint[child.fingerprint] for key, child in stage.inputs.items()}
        if global_rank() == 0 and (line := beginning(stage, workspace)):
            log.info("%-26s %s", plan.role_of(stage), line)
        with plan.naming(plan.role_of(stage)):
            artifact = by_fingerprint[stage.fingerprint] = stage.make(workspace, inputs)
        made |= {role: artifact for role, one in plan.roles.items() if one.fingerprint == stage.fingerprint}
        if global_rank() == 0:
            seconds = "found" if artifact.reused else f"{artifact.manifest['seconds']:.0f} s"
            log.info("%-26s %s  (%s)", plan.role_of(stage), relative(artifact.path), seconds)
            line, warnings = said(artifact)
            if line:
                log.info("%-26s %s", "", line)
            for warning in warnings:
                log.warning("%-26s warning: %s", "", warning)
        if stage.name == "data":
            corpus = Corpus(artifact.path)
            plan.check_corpus(corpus)
            rules.check_corpus(plan, corpus)


def next_of(pending: Sequence[Stage], made: Container[str], workspace: Workspace) -> Stage:
    """The first stage whose inputs are there and that no other run is building; the first at all where all are.

    Args:
        pending: stages that are not made, inputs first.
        made: fingerprints of the others.
        workspace: where they are built.
    """
    ready = (one for one in pending if all(child.fingerprint in made for child in one.inputs.values()))
    return next((one for one in ready if not one.is_being_built(workspace)), pending[0])


def beginning(stage: Stage, workspace: Workspace) -> str | None:
    """What is said when a stage begins that is built, and takes more than a few seconds as far as is known."""
    if stage.is_in(workspace):
        return None
    if stage.resumable and workspace.is_begun(stage.recipe):
        return "goes on where it was interrupted"
    seconds = workspace.last_seconds(stage.name)
    if seconds is None:
        return "begins" if stage.resumable else None
    return f"begins (the last one here took {seconds:.0f} s)" if seconds >= LONG else None
