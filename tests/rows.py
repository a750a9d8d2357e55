"""Rows on a few documents, in this process: composed, planned, carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from composing import composed

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.masks import MASK_FILE, TokenMask
from ifguide.models import load_model
from ifguide.stages import rules
from ifguide.stages.configuration import make_workspace
from ifguide.stages.plan import make_plan
from ifguide.stages.row import write_row, write_run, write_tokens
from ifguide.stages.run import carry_out
from ifguide.workspace import Artifact

SMOKE = "+debug=smoke"


class Row:
    """One configuration: its plan, and what was made of it so far.

    Args:
        folder: where its workspace and its run are.
        overrides: as on the command line.
        small: begin with the smoke configuration.
    """

    def __init__(self, folder: Path, *overrides: str, small: bool = True) -> None:
        self.folder = folder / "run"
        paths = [f"paths.workspace={folder}/workspace", f"paths.run={self.folder}"]
        self.cfg = composed(*([SMOKE] if small else []), *paths, *overrides)
        self.plan = make_plan(self.cfg)
        self.workspace = make_workspace(self.cfg)
        self.made: dict[str, Artifact] = {}
        self.measured: dict[str, Any] = {}

    def check(self) -> Row:
        """What is checked before anything is built."""
        self.plan.check()
        rules.check_plan(self.plan)
        return self

    def run(self) -> Row:
        carry_out(self.plan, self.workspace, self.made)
        return self

    @property
    def built(self) -> list[str]:
        """Names of the stages that were not found."""
        artifacts = {made.path: made for made in self.made.values()}
        return [made.stage for made in artifacts.values() if not made.reused]

    def path(self, role: str) -> Path:
        return self.made[role].path

    def facts(self, role: str) -> dict[str, Any]:
        return self.made[role].manifest["facts"]

    def metrics(self) -> dict[str, Any]:
        if not self.measured:
            if "evaluation" not in self.made:
                self.run()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.measured = write_row(self.plan, self.made, self.workspace, self.folder)
        return self.measured

    def write(self) -> Path:
        """The run's folder as `run.py` leaves it, but for its report."""
        self.metrics()
        write_run(self.plan, self.made, self.workspace, self.folder)
        if "behaviours" in self.plan.row:
            write_tokens(self.plan, self.made, self.folder)
        return self.folder

    @property
    def corpus(self) -> Corpus:
        return Corpus(self.path("data"))

    @property
    def mask(self) -> TokenMask:
        return TokenMask.open(self.path("mask") / MASK_FILE, self.corpus.info["block_length"])

    def model(self, role: str = "model") -> Any:
        return load_model(self.path(role))
