"""What the runs of a study were reduced to: of every arm and shape each seed's number, and their mean."""

import numpy as np

from videonorm.look import CI
from videonorm.study.arms import Arms
from videonorm.study.effects import OfSeeds
from videonorm.study.evidence import TOP1
from videonorm.study.measured import Measured
from videonorm.study.result import StudyResult
from videonorm.study.study_file import Claim
from videonorm.sweep.cells import Cell

Rows = tuple[list[str], list[list[str]]]  # headings, and rows of as many texts


def arm_table(study: StudyResult, claim: Claim) -> Rows:
    """By the measure of a claim: a row a cell, a column a seed, and the mean with its interval.

    Of what is compared by its ratio the mean is the geometric one. There is none of largest stable values,
    which are bounded, nor where a run is censored.
    """
    arms = Arms(study, claim)
    seeds = sorted({run.seed for cell in arms.every for run in cell.results})
    of_ratio = claim.statistic == "ratio"
    rows = []
    for cell in arms.every:
        of_seed = {run.seed: arms.measured.get(run.run) for run in cell.results}
        numbers = [_number(claim.measure.largest, of_seed.get(seed)) for seed in seeds]
        rows.append([arms.name(cell), *numbers, _mean(claim, cell, list(of_seed.values()), of_ratio)])
    mean = f"{'geometric mean' if of_ratio else 'mean'} ({CI})"
    return ["", *(f"seed {seed}" for seed in seeds), mean], rows


def _number(largest: str | None, of: Measured | None) -> str:
    if of is None:
        return ""
    if largest:
        return "stable" if of.value else "diverged"
    return f"{'> ' if of.censored else ''}{_text(of.value)}"


def _mean(claim: Claim, cell: Cell, found: list[Measured | None], of_ratio: bool) -> str:
    values = np.array([of.value for of in found if of and not of.censored])
    if claim.measure.largest or len(values) < max(2, len(found)) or (of_ratio and (values <= 0).any()):
        return ""
    if claim.measure.of_row == TOP1 and not of_ratio:
        estimate = cell.top1
    else:
        values = np.log(values) if of_ratio else values
        estimate = OfSeeds(values, values, values).interval(0.95)
    value, low, high = (
        np.exp(of) if of_ratio else of for of in (estimate.value, estimate.low, estimate.high)
    )
    return f"{_text(value)} ({_text(low)} to {_text(high)})"


def _text(value: float) -> str:
    return f"{value:.4g}".replace("-", "\u2212")
