"""The cells of a study that a claim's figure shows, failed ones too, and how they are told apart."""

from collections.abc import Container, Sequence
from dataclasses import replace

from videonorm.look import PALETTE
from videonorm.study.contrasts import Grid
from videonorm.study.measures import measured
from videonorm.study.result import StudyResult
from videonorm.study.study_file import Claim
from videonorm.sweep.axes import as_number, as_text, in_words, is_called, short_names
from videonorm.sweep.cells import Cell, cells_of, varied_axes
from videonorm.sweep.drawing import BATCH_SIZE, LENGTH, Axis, Drawing
from videonorm.sweep.results import Result


class Arms:
    """The cells of a study, drawn for one of its claims.

    An axis of texts, such as a class, is told by the arm: "gn, WSConv3d". Of a recorder's table, the cells
    are those at the values of further coordinates that the claim holds.

    Attributes:
        every: all of these.
        cells: the same; of more arms than there are colours, those of the arms that the claim compares.
        drawing: of ``cells``.
        measured: the number of each run as the claim measures it, also of those that it does not compare.
    """

    def __init__(self, study: StudyResult, claim: Claim) -> None:
        self.claim = claim
        results = [run for run in study.results if not claim.measure.table or _is_held(run, study, claim)]
        self.every = cells_of(_with_texts_in_arms(results))
        compared = {of.run: of for of in study.measures if of.claim == claim.id}
        self.measured = {
            run.run: of for run in results if (of := measured(claim, study.folder, run, compared))
        }
        self._compared = compared.keys()
        many = len({cell.arm for cell in self.every}) > len(PALETTE)
        arms = {cell.arm for cell in self.every if self.is_compared(cell)}
        self.cells = [cell for cell in self.every if not many or cell.arm in arms]
        self.drawing = Drawing(self.cells, self.cells)

    def is_compared(self, cell: Cell) -> bool:
        """Whether the claim is about it, by the numbers that its runs have."""
        return any(run.run in self._compared for run in cell.results)

    def axis(self) -> Axis | None:
        """For the x axis: what the claim is along, or names, or else what varies; None where nothing does."""
        found = [axis for axis in self.drawing.axes() if self._varies_in_an_arm(axis)]
        claim = self.claim
        asked = [claim.along, claim.measure.largest, *claim.of, *(claim.against or {})]
        for given in filter(None, asked):
            for axis in found:
                name = axis.option or ("num_frames" if axis is LENGTH else "batch_size")
                if is_called(name, given):
                    return axis
        return found[-1] if found else None  # further axes are rarer than T and B: one is there for a reason

    def _varies_in_an_arm(self, axis: Axis) -> bool:
        arms: dict[str, set[object]] = {}
        for cell in self.cells:
            arms.setdefault(cell.arm, set()).add(axis.of(cell))
        return any(len(values) > 1 for values in arms.values())

    def panel(self, cell: Cell, along: Axis | None = None) -> str:
        """What tells a cell from those of other panels: its T, B and further axes, where these vary.

        Args:
            along: an axis that is within a panel; with it T or B, where the two are tied.
        """
        drawing = self.drawing
        within = [along, *((LENGTH, BATCH_SIZE) if drawing.tied and along and not along.option else ())]
        shape = [f"{of.symbol} = {drawing.name(of.of(cell))}" for of in self._varied if of not in within]
        return ", ".join(
            [*shape, *filter(None, [drawing.combination(cell, along.option if along else None)])]
        )

    def panels(self, runs: Container[str]) -> dict[str, list[Cell]]:
        """The cells of each panel that have some of these runs."""
        groups: dict[str, list[Cell]] = {}
        for cell in self.cells:
            if any(run.run in runs for run in cell.results):
                groups.setdefault(self.panel(cell), []).append(cell)
        return groups

    def name(self, cell: Cell) -> str:
        """Of a cell, such as "bn, B = 4, lr 0.1", with what varies."""
        shape = [f"{of.symbol} = {self.drawing.name(of.of(cell))}" for of in self._varied]
        varied = varied_axes(self.every)
        return ", ".join([cell.arm, *shape, *([in_words(cell.axes, varied)] if varied else [])])

    @property
    def _varied(self) -> list[Axis]:
        return [axis for axis in (LENGTH, BATCH_SIZE) if len({axis.of(of) for of in self.every}) > 1]


def _is_held(run: Result, study: StudyResult, claim: Claim) -> bool:
    """Whether it has the values of the coordinates, but the arm, at which all cells of the claim are."""
    grid = Grid(study.study.sweep.axes, ())
    place = dict(zip(grid.names, grid.place(run), strict=True))
    against = {grid.name(given): as_text(value) for given, value in (claim.against or {}).items()}
    of = {grid.name(given): as_text(value) for given, value in claim.of.items()}
    held = {name for name, value in of.items() if name != "norm" and against.get(name, value) == value}
    return all(place[name] == of[name] for name in held)


def _with_texts_in_arms(results: Sequence[Result]) -> list[Result]:
    """Values of axes that are no numbers, where they vary, become part of the arm's name."""
    values: dict[str, set[str]] = {}
    for run in results:
        for name, value in run.axes.items():
            values.setdefault(name, set()).add(value)
    texts = [name for name, of in values.items() if len(of) > 1 and any(as_number(v) is None for v in of)]
    several = len({run.norm for run in results}) > 1
    short = short_names(values)
    named = []
    for run in results:
        told = [_in_a_word(short[name], run.axes[name]) for name in texts]
        arm = ", ".join([*([run.norm] if several or not told else []), *told])
        named.append(replace(run, norm=arm, axes={k: of for k, of in run.axes.items() if k not in texts}))
    return named


def _in_a_word(name: str, value: str) -> str:
    """A class by its own name; another value by that of the axis, too."""
    last = value.rpartition(".")[2]
    return last if last[:1].isupper() else f"{name} {value}"
