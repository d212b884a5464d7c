"""The cells of a sweep: the runs of one arm in one shape, and at one value of each further axis."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

from videonorm.intervals import Estimate, mean_top1
from videonorm.look import span
from videonorm.sweep.results import Result
from videonorm.sweep.shape import Shape


@dataclass(frozen=True)
class Cell:
    """The seeds of one arm at one T x stride and B, and one value of each further axis."""

    arm: str
    shape: Shape
    results: tuple[Result, ...]  # every run that has ended, failed ones too
    axes: Mapping[str, str] = field(default_factory=dict)  # its values of the further axes, by option

    @property
    def done(self) -> list[Result]:
        return [result for result in self.results if result.done]

    @property
    def top1_of_seed(self) -> dict[int, float]:
        return {result.seed: result.val_top1 for result in self.done if result.val_top1 is not None}

    @property
    def num_videos(self) -> int:
        return min(result.val_videos or 0 for result in self.done)

    @cached_property
    def top1(self) -> Estimate:
        """Mean over seeds with its 95 % interval; at least one seed must be done."""
        return mean_top1(list(self.top1_of_seed.values()), self.num_videos)

    @property
    def best_possible_top1(self) -> float | None:
        return self.done[0].best_possible_top1

    @property
    def clips_per_second(self) -> float:
        return fmean(result.clips_per_second or 0.0 for result in self.done)

    @property
    def peak_memory_mib(self) -> float | None:
        """None where it was not measured for every seed."""
        peaks = [result.peak_memory_mib for result in self.done]
        return max(peak for peak in peaks if peak) if all(peaks) else None

    @property
    def clips_seen(self) -> set[int]:
        """Training clips that its seeds saw, as each run recorded it."""
        return {result.clips_seen for result in self.done if result.clips_seen is not None}

    @property
    def clips(self) -> str:
        return span(self.clips_seen) if self.clips_seen else "-"


def cells_of(results: Iterable[Result]) -> list[Cell]:
    """Group the runs; arms and values of further axes stay in order of appearance, T and B ascend."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], dict[Shape, list[Result]]] = {}
    for result in results:
        key = result.norm, tuple(result.axes.items())
        groups.setdefault(key, {}).setdefault(result.shape, []).append(result)
    arms = list(dict.fromkeys(arm for arm, _ in groups))
    return [
        Cell(arm, shape, tuple(of_group[shape]), dict(axes))
        for (arm, axes), of_group in sorted(groups.items(), key=lambda group: arms.index(group[0][0]))
        for shape in sorted(of_group)
    ]


def varied_axes(cells: Iterable[Cell]) -> list[str]:
    """The further axes that tell cells of one arm apart; what was found for each arm by a search does not."""
    values: dict[str, dict[str, set[str]]] = {}
    for cell in cells:
        for axis, value in cell.axes.items():
            values.setdefault(axis, {}).setdefault(cell.arm, set()).add(value)
    return [axis for axis, of_arm in values.items() if any(len(found) > 1 for found in of_arm.values())]


def with_result(cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.done]


def highest(cells: Iterable[Cell]) -> Cell | None:
    """The cell of the highest top-1; None where no cell has a result."""
    return max(with_result(cells), key=lambda cell: cell.top1.value, default=None)


def is_tied(cells: Sequence[Cell]) -> bool:
    """Whether T and B move together: each length has one batch size and each batch size one length."""
    shapes = {cell.shape for cell in cells}
    return len(shapes) == len({shape[:2] for shape in shapes}) == len({shape.batch_size for shape in shapes})


def has_memory(cells: Iterable[Cell]) -> bool:
    """Whether the peak memory of every cell with a result is known."""
    done = with_result(cells)
    return bool(done) and all(cell.peak_memory_mib is not None for cell in done)


def strides_differ(cells: Iterable[Cell]) -> bool:
    return len({cell.shape.frame_stride for cell in cells}) > 1


def clips_seen(cells: Iterable[Cell]) -> set[int]:
    """By the runs of all cells; more than one number where the cells had unequal budgets."""
    return {clips for cell in cells for clips in cell.clips_seen}


def frames_per_step(cells: Iterable[Cell]) -> int | None:
    """That of all runs that are done; None where they differ."""
    frames = {result.frames_per_step for cell in cells for result in cell.done}
    return frames.pop() if len(frames) == 1 else None
