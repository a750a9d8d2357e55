"""The check that objectives with a weight on the masked tokens share."""

from math import inf


def check_weight(name: str, value: float, *, below: str = "the masked tokens would be taught") -> None:
    """Raise ValueError unless a weight is a number, 0 or more.

    Args:
        name: the setting of the objective.
        value: its value.
        below: what would happen below 0.
    """
    if not isinstance(value, int | float) or not 0 <= value < inf:
        raise ValueError(f"{name}={value}: must be a number, 0 or more; below 0 {below}")
