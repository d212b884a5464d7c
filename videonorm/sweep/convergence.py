"""What a stated accuracy costs: steps, epochs, clips, frames and seconds until a validation first reaches it.

As MLPerf's reference convergence points have it (Mattson et al., arXiv:1910.01500; its rules give epochs to a
quality against the batch size). A run that never gets there counts as one that takes forever.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_high

from videonorm.sweep.cells import Cell, highest, with_result
from videonorm.sweep.curves import TOP1, Curves
from videonorm.sweep.results import Result

SHARE = 0.9  # of the way from chance to the best cell


@dataclass(frozen=True)
class Cost:
    """What a run had spent by one of its validations.

    Steps are as its metrics.csv has them. Of the others each step is taken to cost the same: of all that the
    run spent, the share that its steps are.
    """

    steps: float
    epochs: float | None
    clips: float | None
    frames: float | None
    seconds: float | None  # of training, without validation


@dataclass(frozen=True)
class Convergence:
    """How the runs of a cell get to a top-1.

    Args:
        cell: the cell.
        target: the top-1.
        costs: of each run with a learning curve, in order of its seeds; None for one that never got there.
    """

    cell: Cell
    target: float
    costs: tuple[Cost | None, ...]

    @property
    def reached(self) -> int:
        """Runs that got there, of ``len(costs)``."""
        return sum(cost is not None for cost in self.costs)

    def median(self, what: str) -> float | None:
        """Median over the runs of a field of ``Cost``; None where half of them never got there."""
        values = [getattr(cost, what) if cost else math.inf for cost in self.costs]
        if not values or None in values:
            return None
        middle = median_high(values)
        return None if math.isinf(middle) else float(middle)


def target_top1(cells: Sequence[Cell], share: float = SHARE) -> float | None:
    """The top-1 a share of the way from chance to that of the best cell; None without a result.

    Chance is 0 where the number of classes is not known.
    """
    best = highest(cells)
    if best is None:
        return None
    classes = best.done[0].num_classes
    chance = 1 / classes if classes else 0.0
    return chance + share * (best.top1.value - chance)


def convergence(cells: Sequence[Cell], curves: Curves, target: float) -> list[Convergence]:
    """When each cell first reached a top-1 of ``target``; cells without a learning curve are left out."""
    found = []
    for cell in with_result(cells):
        runs = [result for result in cell.done if TOP1 in curves.get(result.run, {})]
        if runs:
            costs = tuple(_cost(result, curves, target) for result in runs)
            found.append(Convergence(cell, target, costs))
    return found


def _cost(result: Result, curves: Curves, target: float) -> Cost | None:
    for step, top1 in zip(*curves[result.run][TOP1], strict=True):
        if top1 >= target:
            share = float(step) / result.steps if result.steps else None

            def of(total: float | None, share: float | None = share) -> float | None:
                return None if total is None or share is None else total * share

            spent = (result.epochs, result.clips_seen, result.frames_seen, result.train_seconds)
            return Cost(float(step), *map(of, spent))
    return None
