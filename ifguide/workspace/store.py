"""Artifacts on disk: built once, found again by fingerprint, verified when found.

An artifact is a folder `<stage>-<fingerprint>`. It is written under `.building/`, renamed into place when it is
complete, and described by `manifest.json`. The fingerprint covers everything that decides the content: the settings, a
version per stage and the fingerprints of its inputs; never how fast or where it was computed.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ifguide.workspace.artifact import (
    Artifact,
    ArtifactError,
    check_files,
    check_recipe,
    describe_files,
    read_manifest,
)
from ifguide.workspace.environment import describe_environment
from ifguide.workspace.faults import StorageError, refusals
from ifguide.workspace.files import MANIFEST, nearest_folder, write_json
from ifguide.workspace.fingerprint import canonical_json, fingerprint_of
from ifguide.workspace.locks import is_locked, locked
from ifguide.workspace.ranks import global_rank, run_id, wait_until

STARTED = "started"  # by whom, and seconds of earlier sessions: rank 0 builds, others of a collective build may join


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an artifact's content.

    Args:
        stage: name of the stage.
        version: raised whenever the meaning of the stage's output changes.
        settings: JSON values.
        inputs: name → fingerprint of each artifact that it is made from.
    """

    stage: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @cached_property
    def content(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "version": self.version,
            "settings": json.loads(canonical_json(self.settings)),
            "inputs": dict(sorted(self.inputs.items())),
        }

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.content)


class Workspace:
    """A folder of artifacts shared by all runs, and by all processes of a run.

    Args:
        root: the folder; created when the first artifact is built.
        verify: compare content hashes, not only file sizes, when an artifact is found.
    """

    def __init__(self, root: str | Path, *, verify: bool = False) -> None:
        self.root = Path(root).absolute()
        self.verify = verify

    def folder(self, recipe: Recipe) -> Path:
        """Where the artifact of a recipe is, or would be."""
        return self.root / f"{recipe.stage}-{recipe.fingerprint}"

    def holds(self, recipe: Recipe) -> bool:
        return (self.folder(recipe) / MANIFEST).is_file()

    def is_building(self, recipe: Recipe) -> bool:
        """Whether a process is building the artifact of a recipe, as far as this one may look."""
        path = self.folder(recipe)
        try:
            return not os.path.lexists(path) and is_locked(self.root, path.name)
        except OSError:  # `build` says it
            return False

    def is_begun(self, recipe: Recipe) -> bool:
        """Whether an interrupted build is there to be resumed."""
        return not self.is_building(recipe) and bool(files_of(self._building(self.folder(recipe))))

    def find(self, recipe: Recipe) -> Artifact:
        """The artifact of a recipe, which is there.

        Raises:
            ArtifactError: it is not what its name or its manifest says.
        """
        path = self.folder(recipe)
        manifest = read_manifest(path)
        check_recipe(path, manifest, recipe.content)
        check_files(path, manifest, verify=self.verify)
        return Artifact(recipe.stage, recipe.fingerprint, path)

    def build(
        self,
        recipe: Recipe,
        builder: Callable[[Path], Mapping[str, Any] | None],
        *,
        resumable: bool = False,
        collective: bool = False,
    ) -> Artifact:
        """Return the artifact of a recipe, building it if it is not there.

        Args:
            recipe: everything that decides the content.
            builder: writes the files into the folder that it is given; what it returns goes into the manifest's
                `facts` (measured figures of the build).
            resumable: hand the builder the files that an interrupted or failed build left behind; those of a failed
                build that is not are removed.
            collective: every rank of a distributed run calls the builder (training); otherwise rank 0 does, and the
                others wait for its manifest.

        Raises:
            ArtifactError: the folder exists but is not what its manifest says.
        """
        path = self.folder(recipe)
        if global_rank() > 0:
            self._join(path, builder, collective=collective)
            return Artifact(recipe.stage, recipe.fingerprint, path)
        if os.path.lexists(path):  # it was renamed into place: nothing is locked or written
            return self.find(recipe)
        with refusals(path.name, self.root), locked(self.root, path.name):
            if os.path.lexists(path):
                return self.find(recipe)
            self._build(recipe, builder, path, resumable=resumable)
        return Artifact(recipe.stage, recipe.fingerprint, path, reused=False)

    def _build(
        self, recipe: Recipe, builder: Callable[[Path], Mapping[str, Any] | None], path: Path, *, resumable: bool
    ) -> None:
        building = self._building(path)
        if building.exists() and not resumable:
            shutil.rmtree(building)
        earlier = spent_on(building)
        (building / STARTED).unlink(missing_ok=True)
        building.mkdir(parents=True, exist_ok=True)
        for leftover in building.glob(f"*{MANIFEST}*"):  # of a build that was killed before its last rename
            leftover.unlink()
        (building / STARTED).write_text(f"{run_id()}\n{earlier}", encoding="utf-8")
        resumed = len(list(building.iterdir())) > 1
        start = time.monotonic()
        try:
            facts = builder(building) or {}
        except Exception:  # an interrupted or killed build stays, to be resumed
            if not (resumable and files_of(building)):
                shutil.rmtree(building, ignore_errors=True)  # another rank may do the same
            raise
        (building / STARTED).unlink()
        manifest = {
            **recipe.content,
            "fingerprint": recipe.fingerprint,
            "facts": json.loads(canonical_json(facts)),
            "seconds": round(earlier + time.monotonic() - start, 2),
            "resumed": resumed,  # then the seconds are of all sessions, of each until it last wrote something
            "files": describe_files(building),
            "environment": describe_environment(),
        }
        write_json(building / MANIFEST, manifest)
        os.replace(building, path)

    def _join(self, path: Path, builder: Callable[[Path], Any], *, collective: bool) -> None:
        """What the other ranks do: build with rank 0, or wait for what it builds."""
        building, finished = self._building(path), (path / MANIFEST).exists

        def at_work() -> bool:  # what a dead process left is no sign of life
            return is_locked(self.root, path.name)

        def ours() -> bool:  # and another run's first process has other ranks beside it
            try:
                return (building / STARTED).read_text(encoding="utf-8").split("\n")[0] == run_id() and at_work()
            except OSError:
                return False

        wait_until(lambda: finished() or (collective and ours()), alive=at_work)
        if not finished():
            builder(building)
        wait_until(finished, alive=at_work)

    def _building(self, path: Path) -> Path:
        return self.root / ".building" / path.name

    def check_writable(self, name: str) -> None:
        """Raise StorageError where nothing can be built, and say for what it is needed."""
        existing = nearest_folder(self.root)
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise StorageError(
                f"paths.workspace={self.root}: {name} is to be built there, and {existing} is no folder that can be "
                "written to; choose another folder"
            )

    def last_seconds(self, stage: str) -> float | None:
        """Time that the latest artifact of a stage, by its name, took to build; None where nothing says it."""
        manifests = sorted(self.root.glob(f"{stage}-*/{MANIFEST}"), key=lambda file: -file.stat().st_mtime)
        try:
            return float(read_manifest(manifests[0].parent)["seconds"]) if manifests else None
        except (ArtifactError, KeyError, TypeError, ValueError):
            return None

    def seconds(self, *artifacts: Artifact) -> float | None:
        """Time that artifacts and all that they were made from took to build, whichever run built them.

        None where an input is no longer in the workspace: then nobody knows.
        """
        made = {artifact.fingerprint: artifact.manifest for artifact in artifacts}
        wanted = list(made.values())
        while wanted:
            for fingerprint in wanted.pop()["inputs"].values():
                if fingerprint not in made:
                    folder = next(self.root.glob(f"*-{fingerprint}"), None)
                    if folder is None:
                        return None
                    made[fingerprint] = read_manifest(folder)
                    wanted.append(made[fingerprint])
        return round(sum(float(manifest["seconds"]) for manifest in made.values()), 2)


def files_of(building: Path) -> list[Path]:
    """What a build has written so far."""
    return [path for path in building.rglob("*") if path.is_file() and path.name != STARTED]


def spent_on(building: Path) -> float:
    """Seconds of all sessions of a build that was interrupted, of each until it last wrote something."""
    try:
        _, before = (building / STARTED).read_text("utf-8").split("\n")
        earlier, start = float(before), (building / STARTED).stat().st_mtime
    except (OSError, ValueError):  # nothing was interrupted, or it was of an earlier version
        return 0.0
    return earlier + max([0.0, *(file.stat().st_mtime - start for file in files_of(building))])
