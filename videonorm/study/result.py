"""A study that has been run: what its page is drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videonorm.study.measured import Measured
from videonorm.study.study_file import StudyFile
from videonorm.study.verdicts import Verdict
from videonorm.sweep.results import Result


@dataclass(frozen=True)
class StudyResult:
    """A study, and what came out.

    Attributes:
        study: its file, as it was run.
        folder: of the study, which is that of its sweep too: results.csv, scores.npz, measures.csv,
            verdicts.csv and, unless they have been removed, the run folders with the recorders' tables.
        results: rows of results.csv, failed runs too.
        measures: of each run and claim, as far as there is a number.
        verdicts: of its claims, in order.
    """

    study: StudyFile
    folder: Path
    results: Sequence[Result]
    measures: Sequence[Measured]
    verdicts: Sequence[Verdict]

    @property
    def failed(self) -> list[Result]:
        """Runs that have ended by other than divergence, which a study may be about."""
        return [run for run in self.results if not run.done and not run.diverged]
