"""Which figure a claim has: it follows from what the claim measures, and from what varies in its study."""

from collections.abc import Sequence
from functools import partial

from videonorm.study.arms import Arms
from videonorm.study.depth import DEPTH, over_depth
from videonorm.study.dots import against, label, of_cells, values_of
from videonorm.study.lines import STEP_SIZE, along_gradient, over_steps, until_target
from videonorm.study.recorded import Recorded, read_recorded
from videonorm.study.result import StudyResult
from videonorm.study.study_file import Claim
from videonorm.sweep.pictures import Picture

# The table of each block, or each step size, that a summary of it is told by: its columns by the summary's.
OF_DEPTH = {"activations": "", "activation_slopes": "slope_"}  # and what its columns begin with
OF_GRADIENT = ("loss_landscape", "loss_landscape_summary")
ALONG = dict.fromkeys(("loss_ratio", "largest_step"), "loss_ratio")
ALONG |= dict.fromkeys(("grad_distance", "predictiveness", "smoothness"), "grad_distance")
SEEDS = "Thin lines are single seeds, thick ones their means."


def picture(study: StudyResult, claim: Claim) -> Picture | None:
    """How a claim's figure is drawn, and its caption; None where no run has anything to show.

    Of activations over depth and step, of the loss along the gradient, of what else recorders wrote over the
    steps, of a time the share of runs that are not there yet; of a number of each run, that against the axis
    that varies, or a row a cell.

    Raises:
        UserError: a recorder's table is none of numbers.
    """
    arms = Arms(study, claim)
    found = _recorded(study, arms) if claim.measure.table else None
    if found:
        return found
    if claim.measure.time_to is not None:
        words = (
            f"The share of the runs whose {claim.measure.column} has not reached {claim.measure.time_to:g}"
        )
        caption = f"{words}, against steps. A bar at the end is of runs that never did, within their budget."
        return (partial(until_target, arms), caption) if arms.measured else None
    values = values_of(arms)
    if not values:
        return None
    axis = arms.axis()
    if axis is None:
        more = ", in bold those that the claim compares" if len(arms.every) > 2 else ""
        return partial(of_cells, arms, values), (
            f"{_sentence(label(arms))} of each run, a dot a seed; lines are means. A row a cell{more}."
        )
    return partial(against, arms, values, axis), (
        f"{_sentence(label(arms, axis))} against {axis.title}; small dots are single seeds, lines go through "
        "means."
    )


def _recorded(study: StudyResult, arms: Arms) -> Picture | None:
    """Of what recorders have written, where the run folders are there and it is more than a number a run."""
    measure = arms.claim.measure
    assert measure.table and measure.column
    runs = [run for cell in arms.cells for run in cell.results]

    def read(table: str, columns: Sequence[str]) -> dict[str, Recorded]:
        return read_recorded(study.folder, runs, table, columns)

    if measure.table in OF_DEPTH:
        column = measure.column.removeprefix(OF_DEPTH[measure.table])
        if tables := read("activations", (DEPTH, column)):
            return partial(over_depth, arms, tables, column), _of_depth(tables, column)
    if measure.table in OF_GRADIENT and measure.column in ALONG:
        column = ALONG[measure.column]
        if tables := read("loss_landscape", (STEP_SIZE, column)):
            one = " Below the dashed line a step lowers the loss." if column == "loss_ratio" else ""
            return partial(along_gradient, arms, tables, column), (
                f"{_sentence(column)} after a step along the gradient, against its size: the median over "
                f"batches and seeds, and all that lies between the least and the greatest.{one}"
            )
    tables = read_recorded(study.folder, runs, measure.table, [measure.column], measure.where)
    if any(len(set(of.step)) > 1 for of in tables.values()):
        where = "".join(f", where {name} is {value}" for name, value in measure.where.items())
        reduced = f", the {measure.over} of what was recorded at a step" if _several(tables) else ""
        return partial(over_steps, arms, tables), (
            f"{_sentence(measure.column)} of {measure.table}.csv{where} while training{reduced}. {SEEDS}"
        )
    return None


def _several(tables: dict[str, Recorded]) -> bool:
    return any(len(of.step) > len(set(of.step)) for of in tables.values())


def _of_depth(tables: dict[str, Recorded], column: str) -> str:
    steps = {step for of in tables.values() for step in of.step}
    if len(steps) == 1:
        return f"{_sentence(column)} of each block at step {min(steps):,.0f}, a line a seed."
    return (
        f"{_sentence(column)} of each block over training, the mean over seeds, on one scale for all. "
        "Vermilion is what was not finite; blank, what was not recorded."
    )


def _sentence(words: str) -> str:
    """Its beginning."""
    words = words.replace("_", " ")
    return words[:1].upper() + words[1:]
