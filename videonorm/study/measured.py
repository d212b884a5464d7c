"""What was measured of the runs, measures.csv: a row for each run and claim, kept where run folders go."""

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from videonorm.errors import UserError
from videonorm.files import from_cell, open_new, to_cell


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
    with open_new(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([of.name for of in fields(Measured)])
        for claim, run, value, censored in map(astuple, measures):
            writer.writerow([to_cell(claim), to_cell(run), value, int(censored)])


def read_measures(path: Path) -> list[Measured]:
    """Rows of a measures.csv.

    Raises:
        UserError: the file is missing, or is not a table of measures.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [
                Measured(
                    from_cell(row["claim"]),
                    from_cell(row["run"]),
                    float(row["value"]),
                    bool(int(row["censored"])),
                )
                for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise UserError(f"measures ({path}) must be a readable file: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"measures ({path}) must have the columns of a study: {error}") from error
