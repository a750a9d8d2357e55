"""Artifacts on disk: built once, found again by fingerprint, verified when loaded.

An artifact is a folder `<stage>-<fingerprint>`. It is written under `.building/`, renamed into place when it is
complete, and described by `manifest.json`. The fingerprint covers everything that decides the content: the settings, a
version per stage and the fingerprints of its inputs; never how fast or where it was computed.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

MANIFEST = "manifest.json"
STARTED = "started"  # rank 0 has the lock and builds; the other ranks of a collective build may join
RECORDED_PACKAGES = ("torch", "transformers", "pytorch-lightning", "kronfluence", "datasets", "tokenizers", "numpy")


class ArtifactError(ValueError):
    """An artifact on disk is not what its name, its manifest or the run that asks for it says."""


@dataclass(frozen=True)
class Artifact:
    """A finished folder in the workspace."""

    stage: str
    fingerprint: str
    path: Path
    reused: bool = field(default=True, compare=False)

    @property
    def manifest(self) -> dict[str, Any]:
        return read_manifest(self.path)

    @staticmethod
    def open(path: Path, *, stage: str | None = None, verify: bool = False) -> "Artifact":
        """Open a folder as an artifact after checking its manifest and files.

        Raises:
            ArtifactError: no manifest, another stage than asked for, or files that are not those of the manifest.
        """
        manifest = read_manifest(path)
        if stage is not None and manifest["stage"] != stage:
            raise ArtifactError(f"{path} holds a `{manifest['stage']}` artifact where a `{stage}` is needed")
        check_files(path, manifest, verify=verify)
        return Artifact(manifest["stage"], manifest["fingerprint"], path)


class Workspace:
    """A folder of artifacts shared by all runs, and by all processes of a run.

    Args:
        root: the folder; created when the first artifact is built.
        verify: compare content hashes, not only file sizes, when an artifact is found.
    """

    def __init__(self, root: str | Path, *, verify: bool = False) -> None:
        self.root = Path(root).absolute()
        self.verify = verify

    def build(
        self,
        stage: str,
        *,
        version: int,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Artifact],
        builder: Callable[[Path], Mapping[str, Any] | None],
        resumable: bool = False,
        collective: bool = False,
    ) -> Artifact:
        """Return the artifact of these settings and inputs, building it if it is not there.

        Args:
            stage: name of the stage.
            version: raised whenever the meaning of the stage's output changes.
            settings: everything that decides the content, as JSON values.
            inputs: the artifacts it is made from.
            builder: writes the files into the folder that it is given; what it returns goes into the manifest's
                `facts` (measured figures of the build).
            resumable: hand the builder the files that an interrupted or failed build left behind; those of a failed
                build that is not are removed.
            collective: every rank of a distributed run calls the builder (training); otherwise rank 0 does, and the
                others wait for its manifest.

        Raises:
            ArtifactError: the folder exists but is not what its manifest says.
        """
        recipe = {
            "stage": stage,
            "version": version,
            "settings": json.loads(canonical_json(settings)),
            "inputs": {name: artifact.fingerprint for name, artifact in sorted(inputs.items())},
        }
        fingerprint = fingerprint_of(recipe)
        name = f"{stage}-{fingerprint}"
        path, building = self.root / name, self.root / ".building" / name

        if global_rank() > 0:
            if collective and wait_for(path / MANIFEST, building / STARTED) == building / STARTED:
                builder(building)
            wait_for(path / MANIFEST)
            return Artifact(stage, fingerprint, path)

        self.root.mkdir(parents=True, exist_ok=True)
        locks = self.root / ".locks"
        locks.mkdir(exist_ok=True)
        with FileLock(locks / f"{name}.lock"):
            if path.exists():
                manifest = read_manifest(path)
                check_recipe(path, manifest, recipe)
                check_files(path, manifest, verify=self.verify)
                return Artifact(stage, fingerprint, path)
            if building.exists() and not resumable:
                shutil.rmtree(building)
            (building / STARTED).unlink(missing_ok=True)
            building.mkdir(parents=True, exist_ok=True)
            for leftover in building.glob(f"{MANIFEST}*"):  # of a build that was killed before its last rename
                leftover.unlink()
            (building / STARTED).touch()
            resumed = len(list(building.iterdir())) > 1
            start = time.monotonic()
            try:
                facts = builder(building) or {}
            except Exception:  # an interrupted or killed build stays, to be resumed
                if not (resumable and any(p.is_file() and p.name != STARTED for p in building.rglob("*"))):
                    shutil.rmtree(building, ignore_errors=True)  # another rank may do the same
                raise
            (building / STARTED).unlink()
            manifest = {
                **recipe,
                "fingerprint": fingerprint,
                "facts": json.loads(canonical_json(facts)),
                "seconds": round(time.monotonic() - start, 2),
                "resumed": resumed,  # then the seconds are those of the last session
                "files": describe_files(building),
                "environment": describe_environment(),
            }
            write_json(building / MANIFEST, manifest)
            os.replace(building, path)
        return Artifact(stage, fingerprint, path, reused=False)

    def seconds(self, *artifacts: Artifact) -> float | None:
        """Time that artifacts and all that they were made from took to build, whichever run built them.

        None where an input is no longer in the workspace: then nobody knows. What a resumed build took before it was
        interrupted is not counted.
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
        return round(sum(manifest["seconds"] for manifest in made.values()), 2)


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint_of(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def file_signature(path: Path) -> Any:
    """What a file or folder holds, wherever it lies: content hashes, by name within a folder."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != MANIFEST)
        return {str(p.relative_to(path)): file_signature(p) for p in files}
    stat = path.stat()
    return _content_hash(path.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def _content_hash(path: Path, size: int, modified: int) -> str:
    return sha256_of(path)


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is not an artifact: it holds no {MANIFEST}") from None
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path / MANIFEST} is damaged ({error}); delete the folder to build it again") from None


def check_recipe(path: Path, manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    differing = sorted(
        key
        for part in ("stage", "version", "settings", "inputs")
        for key in _differing_keys(manifest.get(part), recipe[part], part)
    )
    if differing:
        raise ArtifactError(
            f"{path} was built differently from what its name says; differing keys: {', '.join(differing)}. "
            "Delete the folder to build it again"
        )


def check_files(path: Path, manifest: Mapping[str, Any], *, verify: bool) -> None:
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"{path} lacks the file {name}; delete the folder to build it again")
        if file.stat().st_size != expected["size"]:
            raise ArtifactError(
                f"{file} has {file.stat().st_size} bytes, its manifest says {expected['size']}; "
                "delete the folder to build it again"
            )
        if verify and sha256_of(file) != expected["sha256"]:
            raise ArtifactError(f"{file} does not have the content hash of its manifest; delete the folder")


def describe_files(path: Path) -> dict[str, dict[str, Any]]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(f.relative_to(path)): {"size": f.stat().st_size, "sha256": sha256_of(f)} for f in files}


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def describe_environment() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in RECORDED_PACKAGES},
        "git_commit": commit.stdout.strip() or None,
    }


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that a reader sees either the old content or the new."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def global_rank() -> int:
    """Rank of this process among all processes of the run, from the launcher's environment; 0 when alone."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1":
        return int(os.environ["SLURM_PROCID"])
    local, node = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("NODE_RANK", 0))
    world, nodes = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("NUM_NODES", 1))
    return node * max(world // max(nodes, 1), 1) + local


def wait_for(*paths: Path, poll_seconds: float = 0.2) -> Path:
    """Wait until rank 0 has published one of some files, and return it; end this process when its parent has gone."""
    parent = os.getppid()
    while True:
        for path in paths:
            if path.exists():
                return path
        if os.getppid() != parent:
            raise SystemExit("the process of rank 0 has ended")
        time.sleep(poll_seconds)


def _differing_keys(old: Any, new: Any, prefix: str) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            key
            for name in sorted({*old, *new})
            for key in _differing_keys(old.get(name), new.get(name), f"{prefix}.{name}")
        ]
    return [] if old == new else [prefix]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
