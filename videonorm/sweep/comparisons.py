"""The cells of a sweep against each other: on the same videos where their scores are known."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats.multitest import multipletests

from videonorm.differences import Difference, Tested, paired, resampled_top1, unpaired
from videonorm.sweep.cells import Cell, with_result
from videonorm.sweep.scores import Scores

ERROR_RATE = 0.05  # of sweeps in which anything is told apart that is equal

Key = tuple[object, ...]


@dataclass(frozen=True)
class Rival:
    """Another cell against the best one.

    Args:
        cell: the other.
        lead: the best's top-1 minus its own; None where they have no seed in common and no scores.
        p_value: of no difference, after Holm's correction over all others (Scandinavian Journal of Statistics
            6, 1979).
    """

    cell: Cell
    lead: Difference | None
    p_value: float

    @property
    def is_told_apart(self) -> bool:
        return self.p_value < ERROR_RATE


class Comparisons:
    """Differences in top-1 between cells.

    Args:
        cells: those of the sweep.
        scores: of the runs' videos, as far as they are there. Cells that have none are compared by the top-1
            of the seeds they share, as if each had been tested on videos of its own.

    Attributes:
        num_videos: videos that every run with scores has scored; paired differences are over these.
        left_out: videos that a run has not scored.
        unpaired: cells with a result, but without the scores of every run.
    """

    def __init__(self, cells: Iterable[Cell], scores: Scores | None = None) -> None:
        done = with_result(cells)
        top1 = {_key(cell): scores.of(cell) for cell in done} if scores else {}
        known = {key: of for key, of in top1.items() if of is not None}
        self.num_videos = self.left_out = 0
        self._tested: dict[Key, Tested] = {}
        if known:
            every = np.concatenate(list(known.values()))
            scored = ~np.isnan(every).any(0)
            self.num_videos, self.left_out = int(scored.sum()), int((~scored).sum())
        if self.num_videos:
            every = every[:, scored]
            resampled = resampled_top1(every)
            start = 0
            for key, of in known.items():
                rows = slice(start, start := start + len(of))
                self._tested[key] = Tested(every[rows], resampled[rows])
        self.unpaired = [cell for cell in done if _key(cell) not in self._tested]
        self._found: dict[tuple[Key, Key], Difference | None] = {}

    def difference(self, first: Cell, second: Cell) -> Difference | None:
        """Top-1 of the first minus that of the second; None without scores and without a common seed."""
        pair = _key(first), _key(second)
        if pair not in self._found:
            ours, theirs = (self._tested.get(key) for key in pair)
            self._found[pair] = paired(ours, theirs) if ours and theirs else _unpaired(first, second)
        return self._found[pair]

    def rivals(self, best: Cell, cells: Iterable[Cell]) -> list[Rival]:
        """Every other cell with a result against the best."""
        others = [cell for cell in with_result(cells) if _key(cell) != _key(best)]
        leads = [self.difference(best, other) for other in others]
        p_values = holm([lead.p_value if lead else 1.0 for lead in leads])
        return [Rival(*of) for of in zip(others, leads, p_values, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """As many tests taken together; see ``Rival``."""
    return multipletests(p_values, method="holm")[1].tolist() if p_values else []


def _unpaired(first: Cell, second: Cell) -> Difference | None:
    ours, theirs = first.top1_of_seed, second.top1_of_seed
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    videos = min(first.num_videos, second.num_videos)
    return unpaired([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], videos)


def _key(cell: Cell) -> Key:
    return cell.arm, cell.shape, *sorted(cell.axes.items())
