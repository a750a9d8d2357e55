"""What this process runs with, for manifests: versions, the state of the code, and the hardware."""

import os
import platform
import subprocess
import sys
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

RECORDED_PACKAGES = ("torch", "transformers", "pytorch-lightning", "kronfluence", "datasets", "tokenizers", "numpy")


def describe_environment() -> dict[str, Any]:
    """Versions of Python and of packages; the commit of the code, with a hash of what was changed since; hardware; and
    how many processes a run is made of."""
    return {**_of_this_process(), "processes": int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS", "1"))}


@cache
def _of_this_process() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in RECORDED_PACKAGES},
        **describe_code(Path(__file__).parents[2]),
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "devices": _devices()},
    }


def describe_code(checkout: Path) -> dict[str, str | None]:
    """The commit of a checkout; and the SHA-256 of the difference between its tracked files and that commit, None where
    there is none. Both are None where it is no checkout, or git is not here."""
    tracked = _git(checkout, "ls-files", "--error-unmatch", "ifguide/__init__.py")  # else it is of something around it
    commit = _git(checkout, "rev-parse", "HEAD") if tracked else None
    changes = _git(checkout, "diff", "HEAD", "--binary", "--no-ext-diff") if commit else None
    return {
        "git_commit": commit.decode().strip() if commit else None,
        "git_changes": sha256(changes).hexdigest() if changes else None,
    }


def _git(folder: Path, *command: str) -> bytes | None:
    try:
        found = subprocess.run(["git", *command], cwd=folder, capture_output=True, check=False)
    except OSError:
        return None
    return found.stdout if found.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """As Linux names it; elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _devices() -> list[str]:
    """Names of GPUs, where this process has looked for some."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
