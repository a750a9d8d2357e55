"""Signals that end a run: whatever is being done ends there, and what is on disk is whole at any moment."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_received: list[signal.Signals] = []


def stopped() -> str | None:
    """Name of the signal that ended the run; None where there was none."""
    return _received[0].name if _received else None


@contextmanager
def listening() -> Iterator[None]:
    """Within this context SIGINT and SIGTERM end what is done, in one line and with exit code 128 + n."""

    def stop(number: int, frame: FrameType | None) -> None:
        _received.append(signal.Signals(number))
        raise KeyboardInterrupt

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, stop)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # the latter is Lightning's answer to the former
        if not _received:
            raise
    if _received:
        print(f"stopped by {stopped()}: what is done is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(128 + _received[0])
