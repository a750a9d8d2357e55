"""One process at a time builds an artifact: a lock that ends with the process that holds it."""

import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

log = logging.getLogger(__name__)
LOCKS = ".locks"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def lock_of(root: Path, name: str) -> BaseFileLock:
    """The lock of an artifact in a workspace, not taken yet; `.locks` is there.

    Where the file system has none, a file that is there stands for it, which is said: it outlives a machine that dies.
    """
    folder = root / LOCKS
    if (fault := missing_locks(folder)) is None:
        return FileLock(folder / f"{name}.lock")
    return SoftFileLock(folder / f"{name}.{fault}")


@cache
def missing_locks(folder: Path) -> str | None:
    """Name of the error with which a folder's file system refuses locks, said once; None where it has them."""
    if os.name != "posix":
        return None
    import fcntl

    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            name = errno.errorcode[error.errno]
            log.warning(
                "warning: %s is on a file system without locks (flock: %s); files stand for them. Should a machine die "
                "while it builds, remove %s before the next run; or put paths.workspace on another file system",
                folder.parent, name, folder,
            )  # fmt: skip
            return name
    return None


@contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Within this context no other process builds the artifact of this name."""
    (root / LOCKS).mkdir(parents=True, exist_ok=True)
    with lock_of(root, name):
        yield


def is_locked(root: Path, name: str) -> bool:
    """Whether a process that lives builds the artifact of this name."""
    if not (root / LOCKS).is_dir():
        return False
    try:
        with lock_of(root, name).acquire(timeout=0):
            return False
    except Timeout:
        return True
