"""What a disk refuses, in one line: what could not be written or read and where, what the system says, the way out."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EEXIST, EFBIG, EIO, EISDIR, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS, ESTALE
from pathlib import Path

from ifguide.workspace.artifact import ArtifactError

WRITING = {  # what only a write can meet → the way out
    ENOSPC: "make room there (stage=clean lists what no run needs), or choose another folder",
    EDQUOT: "make room there (stage=clean lists what no run needs), or choose another folder",
    EFBIG: "raise the limit of the size of files (ulimit -f unlimited)",
    EROFS: "choose a folder that can be written to",
}
ANYWHERE = {  # what reading can meet as well → the way out
    EACCES: "choose a folder of your own, or ask its owner",
    EPERM: "choose a folder of your own, or ask its owner",
    ENOENT: "was it removed meanwhile? the same command builds again what is gone",
    ENOTDIR: "a file or a link stands where a folder should; remove it",
    EEXIST: "a file or a link stands where a folder should; remove it",
    EISDIR: "a folder stands where a file should; remove it",
    EIO: "look at the disk; the same command goes on from what is whole",
    ESTALE: "look at the file system; the same command goes on from what is whole",
}
# of libraries that say it in words: safetensors, Arrow, torch, and numpy, which does not say why
OS_ERROR = re.compile(r"os error (\d+)|\[[Ee]rrno (\d+)\]")
CUT_SHORT = re.compile(r"\d+ requested and \d+ written|PytorchStreamWriter failed|file write failed")


class StorageError(ArtifactError):
    """The workspace cannot be written to, or what is in it cannot be read."""


def refusal(error: BaseException, folder: Path) -> str | None:
    """What the disk refused, where an error, or one that it came from, is of a folder's disk; with the way out.

    Args:
        error: of a build.
        folder: the workspace. An error that is about another place, or that names none and that reading can meet too,
            is not of its disk.
    """
    seen: BaseException | None = error
    while seen is not None:
        number, place = _number(seen), getattr(seen, "filename", None)
        inside = isinstance(place, str | os.PathLike) and Path(place).absolute().is_relative_to(folder)
        where = f"{place}: " if inside else ""
        if number in WRITING and (inside or place is None):
            return f"{where}{os.strerror(number)}: {WRITING[number]}"
        if number in ANYWHERE and inside:
            return f"{where}{os.strerror(number)}: {ANYWHERE[number]}"
        if number is None and CUT_SHORT.search(str(seen)):
            return f"less was written than was to be: is the disk full, or the size of files limited? {WRITING[ENOSPC]}"
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = OS_ERROR.search(str(error))
    return int(found[1] or found[2]) if found else None


@contextmanager
def refusals(what: str, folder: Path) -> Iterator[None]:
    """Within this context, what the folder's disk refuses is a StorageError of one line that begins with `what`."""
    try:
        yield
    except ValueError:  # says it in one line already
        raise
    except Exception as error:
        if (said := refusal(error, folder)) is None:
            raise
        raise StorageError(f"{what} cannot be built in {folder}: {said}") from error
