"""How the learning rate goes, as a share of its peak: a linear warm-up, and what comes after it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import cos, pi

from ifguide.checks import check_whole_number


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A linear warm-up, and whatever a subclass makes of the rest.

    Args:
        warmup: share of the steps in which the rate rises to the peak; or
        warmup_steps: how many steps that takes. With neither there is no warm-up.
    """

    warmup: float | None = None
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        if self.warmup is not None and self.warmup_steps is not None:
            raise ValueError(f"warmup={self.warmup}, warmup_steps={self.warmup_steps}: set one of them, the other null")
        if not 0 <= (self.warmup or 0) <= 1:
            raise ValueError(f"warmup={self.warmup}: must be a share in [0, 1]; a number of steps is warmup_steps")
        if self.warmup_steps is not None:
            check_whole_number("warmup_steps", self.warmup_steps, least=0)

    def rate(self, step: int, steps: int) -> float:
        """The rate of one of so many steps, counted from 0."""
        warmup = round((self.warmup or 0) * steps) if self.warmup_steps is None else self.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        return self.after(min((step - warmup) / max(steps - warmup, 1), 1.0))

    @abstractmethod
    def after(self, progress: float) -> float:
        """The rate after the warm-up, of which this share has passed."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The peak to the end."""

    def after(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Decay(Schedule):
    """From the peak down to `final`, the rate at the end as a share of the peak."""

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise ValueError(f"final={self.final}: must be a share of the peak in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    """Half a cosine from the peak to `final`."""

    def after(self, progress: float) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + cos(pi * progress))


@dataclass(frozen=True, kw_only=True)
class Linear(Decay):
    """A straight line from the peak to `final`."""

    def after(self, progress: float) -> float:
        return self.final + (1 - self.final) * (1 - progress)
