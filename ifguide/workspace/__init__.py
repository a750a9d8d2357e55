"""Artifacts: built once, found again by fingerprint, verified when loaded; the same for every process of a run."""

from ifguide.workspace.artifact import Artifact, ArtifactError, read_manifest
from ifguide.workspace.environment import describe_environment
from ifguide.workspace.faults import StorageError, refusal
from ifguide.workspace.files import (
    MANIFEST,
    as_override,
    file_signature,
    find_files,
    find_paths,
    finite,
    nearest_folder,
    open_archive,
    open_array,
    read_json,
    write_atomically,
    write_json,
)
from ifguide.workspace.fingerprint import canonical_json, describe, fingerprint_of
from ifguide.workspace.ranks import check_launched, forget_ranks, global_rank, local_rank, unranked, wait_until
from ifguide.workspace.store import Recipe, Workspace

__all__ = [
    "MANIFEST",
    "Artifact",
    "ArtifactError",
    "Recipe",
    "StorageError",
    "Workspace",
    "as_override",
    "canonical_json",
    "check_launched",
    "describe",
    "describe_environment",
    "file_signature",
    "find_files",
    "find_paths",
    "fingerprint_of",
    "finite",
    "forget_ranks",
    "global_rank",
    "local_rank",
    "nearest_folder",
    "open_archive",
    "open_array",
    "read_json",
    "read_manifest",
    "refusal",
    "unranked",
    "wait_until",
    "write_atomically",
    "write_json",
]
