"""What was measured of the runs, measures.csv: a row for each run and claim, kept where run folders go."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from videonorm.files import from_cell
from videonorm.sweep.csv_table import read_table, write_table


@dataclass(frozen=True)
class Measured:
    """The number that a claim's measure is of one run.

    Attributes:
        claim: its id.
        run: its name, as in results.csv.
        value: in the measure's own unit, a share for top-1. Of ``largest``: 1 for a run that is stable, 0 for
            one that has diverged. Of ``time_to``: steps.
        censored: the steps are those of the budget, in which the target was not reached.
    """

    claim: str
    run: str
    value: float
    censored: bool = False


def write_measures(path: Path, measures: Iterable[Measured]) -> None:
    rows = ({**asdict(of), "censored": int(of.censored)} for of in measures)
    write_table(path, [of.name for of in fields(Measured)], rows)


def read_measures(path: Path) -> list[Measured]:
    """Rows of a measures.csv.

    Raises:
        UserError: the file is missing, or is not a table of measures.
    """
    return read_table(path, "measures", "study", _measured)


def _measured(row: dict[str, str]) -> Measured:
    censored = bool(int(row["censored"]))
    return Measured(from_cell(row["claim"]), from_cell(row["run"]), float(row["value"]), censored)
