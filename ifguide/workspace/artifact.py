"""A finished folder of the workspace, and what its manifest promises of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ifguide.checks import listed
from ifguide.workspace.files import MANIFEST, read_json, sha256_of


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


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an artifact's folder.

    Raises:
        ArtifactError: there is none, or it is not of the shape of a manifest.
    """
    again = "delete the folder to build it again"
    try:
        manifest: dict[str, Any] = read_json(path / MANIFEST)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is not an artifact: it holds no {MANIFEST}; delete it to build it again") from None
    except OSError as error:
        raise ArtifactError(f"{path} is not an artifact that can be read ({error.strerror})") from error
    except ValueError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ArtifactError(f"{path / MANIFEST} is damaged ({reason}); {again}") from None
    if not is_manifest(manifest):
        raise ArtifactError(f"{path / MANIFEST} is no manifest of an artifact; {again}")
    return manifest


def is_manifest(value: Any) -> bool:
    """Whether a value has the entries that are read of a manifest, of their types; files lie inside the folder."""
    if not isinstance(value, dict) or not {"stage", "fingerprint", "inputs", "files"} <= value.keys():
        return False
    files, inputs = value["files"], value["inputs"]
    return (
        all(isinstance(value[key], str) for key in ("stage", "fingerprint"))
        and isinstance(inputs, dict)
        and all(isinstance(fingerprint, str) for fingerprint in inputs.values())
        and isinstance(value.get("facts", {}), dict)
        and isinstance(value.get("seconds", 0.0), int | float)
        and isinstance(files, dict)
        and all(isinstance(one, dict) and {"size", "sha256"} <= one.keys() for one in files.values())
        and not any(Path(name).is_absolute() or ".." in Path(name).parts for name in files)
    )


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
            raise ArtifactError(f"{path} lacks the file {listed([name])}; delete the folder to build it again")
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


def _differing_keys(old: Any, new: Any, prefix: str) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            key
            for name in sorted({*old, *new})
            for key in _differing_keys(old.get(name), new.get(name), f"{prefix}.{name}")
        ]
    return [] if old == new else [prefix]
