"""Learning-rate schedules as plain functions of training progress.

A schedule knows nothing of steps or epochs, so one recipe serves any length of training. Any torch scheduler
works too, by class path; its own numbers are then in steps (or epochs, see
``VideoClassifier.scheduler_interval``).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from videonorm.errors import UserError


class Schedule(ABC):
    """A learning-rate factor over the course of training; 1 stands for the optimizer's learning rate."""

    warmup: float = 0.0
    """Fraction of training in which the factor rises."""

    @abstractmethod
    def factor(self, progress: float) -> float:
        """Factor at ``progress``: 0 before the first optimizer step, 1 after the last."""

    def warmup_steps(self, total_steps: int) -> int:
        """Of so many steps those that begin before the warm-up is over."""
        return math.ceil(round(self.warmup * total_steps, 6))  # 0.07 * 100 is 7.000000000000001

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name} ({value}) must be a fraction of training, from 0 to 1")


class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine down (Loshchilov & Hutter, arXiv:1608.03983, without restarts).

    Args:
        warmup: fraction of training that the learning rate takes to rise.
        start: factor at the very first step.
        final: factor at the end.
    """

    def __init__(self, warmup: float = 0.1, start: float = 0.1, final: float = 0.0) -> None:
        _check_fraction("warmup", warmup)
        self.warmup, self.start, self.final = warmup, start, final

    def factor(self, progress: float) -> float:
        if progress < self.warmup:
            return self.start + (1 - self.start) * progress / self.warmup
        fall = (progress - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 0.0
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(fall, 1.0))) / 2


class WarmupSteps(Schedule):
    """Linear warm-up, then the learning rate is multiplied by ``decay`` at each milestone.

    Args:
        milestones: fractions of training at which the learning rate falls.
        decay: what it is multiplied by there.
        warmup: fraction of training that the learning rate takes to rise.
        start: factor at the very first step, if there is a warm-up.
    """

    def __init__(
        self,
        milestones: Sequence[float] = (1 / 3, 2 / 3),
        decay: float = 0.1,
        warmup: float = 0.0,
        start: float = 0.1,
    ) -> None:
        for milestone in milestones:
            _check_fraction("milestones", milestone)
        _check_fraction("warmup", warmup)
        self.milestones, self.decay, self.warmup, self.start = tuple(milestones), decay, warmup, start

    def factor(self, progress: float) -> float:
        if progress < self.warmup:
            return self.start + (1 - self.start) * progress / self.warmup
        return float(self.decay ** sum(progress >= milestone for milestone in self.milestones))
