"""A configuration → the stages of a run."""

from dataclasses import replace

from omegaconf import DictConfig, OmegaConf

from ifguide.checks import check_seed
from ifguide.stages import rules
from ifguide.stages.planner import Planner
from ifguide.stages.stage import Plan, closure

STAGES = (
    "data", "proxy", "factors", "direction", "scores", "pooled", "mask", "export", "filtered", "model", "evaluate",
)  # fmt: skip


def make_plan(cfg: DictConfig, stage: str | None = None) -> Plan:
    """The stages that a composed configuration asks for.

    Args:
        cfg: see `conf/config.yaml`.
        stage: the last stage wanted; None: `cfg.stage`.

    Raises:
        ValueError: what a user can get wrong in a single setting, named as it was typed.
    """
    wanted = stage or cfg.stage
    if wanted not in STAGES:
        raise ValueError(f"stage={wanted}; known: {', '.join(STAGES)}, report, plan, clean")
    check_seed(cfg.seed)
    planner = Planner(cfg)
    targets = planner.targets(wanted)
    needed = {one.fingerprint for target in targets for one in closure(target)}
    roles = {role: one for role, one in planner.roles.items() if one.fingerprint in needed}
    values = OmegaConf.to_container(cfg, resolve=True)
    plan = Plan(tuple(targets), roles, planner.typed, {"name": planner.name, "stage": wanted, "seed": cfg.seed})
    behaviours = planner.behaviours if wanted == "evaluate" else {}
    return replace(plan, row={**plan.row, **rules.row_facts(plan, values, behaviours)})  # type: ignore[arg-type]
