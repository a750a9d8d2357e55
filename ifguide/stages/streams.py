"""What a run prints, and where it may write: neither a reader that has gone nor a full disk behind it ends a run."""

import io
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

PROBE = bytes(1 << 16)  # more than Hydra's three files of settings


class Lenient(io.TextIOWrapper):
    """A stream that, once it cannot be written to, says so and drops what is written."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)
            super().flush()

    def _give_up(self, error: OSError) -> None:
        """Let the stream's file be none: what is buffered goes there too, and so do programs that are started."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if self is sys.stdout:
            print(f"nobody reads what is printed ({error.strerror}): the run goes on, see its run.log", file=sys.stderr)


def make_lenient() -> None:
    """Replace the standard streams; one that is closed is none. A terminal need not know an arrow."""
    logging.raiseExceptions = False  # nor is a line that cannot go into a run's log the end of it
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: Any = getattr(sys, name)
        if stream is None:
            try:
                os.fstat(number)
            except OSError:  # or a file that is opened later would have this number, and be printed into
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
            continue
        buffer = open(stream.fileno(), "wb", closefd=False)  # noqa: SIM115  # loggers have the old one, which stays
        lenient = Lenient(buffer, stream.encoding, "replace", line_buffering=stream.line_buffering)
        setattr(sys, name, lenient)


def check_folder(setting: str, folder: Path) -> None:
    """End the program where a folder cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(PROBE)
    except OSError as error:
        message = f"error: {setting}={folder}: it cannot be written to ({error.strerror}); choose another folder"
        print(message, file=sys.stderr)
        sys.exit(1)
