"""Checks of plain arguments that many rooms share; a message begins with the argument's name."""


def check_whole_number(name: str, value: object, *, least: int) -> None:
    """Raise ValueError unless a value is a whole number, not below the least."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name}={value}: it is a whole number, {least} or more")


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless a value lies in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value}: a share in [0, 1)")
