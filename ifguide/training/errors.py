"""A message names the argument it is about; whoever owns the owner of that argument puts its name in front."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def argument(name: str) -> Iterator[None]:
    """What is said of an argument's own arguments, `batch_size=0: …`, becomes `optim.batch_size=0: …`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error
