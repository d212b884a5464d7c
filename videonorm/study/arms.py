"""The cells of a study that a claim's figure shows, failed ones too, and how they are told apart."""

from videonorm.look import PALETTE
from videonorm.study.result import StudyResult
from videonorm.study.study_file import Claim
from videonorm.sweep.axes import in_words
from videonorm.sweep.cells import Cell, cells_of, varied_axes
from videonorm.sweep.drawing import BATCH_SIZE, LENGTH, Axis, Drawing


class Arms:
    """The cells of a study, drawn for one of its claims.

    Attributes:
        every: all of the sweep.
        cells: the same; of more arms than there are colours, those of the arms that the claim compares.
        drawing: of ``cells``.
        measured: what the claim's runs are reduced to, by run, as far as there is a number.
    """

    def __init__(self, study: StudyResult, claim: Claim) -> None:
        self.claim = claim
        self.every = cells_of(study.results)
        self.measured = {of.run: of for of in study.measures if of.claim == claim.id}
        many = len({cell.arm for cell in self.every}) > len(PALETTE)
        compared = {cell.arm for cell in self.every if self.is_compared(cell)}
        self.cells = [cell for cell in self.every if not many or cell.arm in compared]
        self.drawing = Drawing(self.cells, self.cells)

    def is_compared(self, cell: Cell) -> bool:
        return any(run.run in self.measured for run in cell.results)

    def axis(self) -> Axis | None:
        """For the x axis: what the claim is along, or names, or else what varies; None where nothing does."""
        found = [axis for axis in self.drawing.axes() if len({axis.of(cell) for cell in self.cells}) > 1]
        claim = self.claim
        asked = [claim.along, claim.measure.largest, *claim.of, *(claim.against or {})]
        for given in filter(None, asked):
            for axis in found:
                name = axis.option or ("num_frames" if axis is LENGTH else "batch_size")
                if name == given or name.endswith(f".{given}"):
                    return axis
        return found[-1] if found else None  # further axes are rarer than T and B: one is there for a reason

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

    def panels(self) -> dict[str, list[Cell]]:
        groups: dict[str, list[Cell]] = {}
        for cell in self.cells:
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
