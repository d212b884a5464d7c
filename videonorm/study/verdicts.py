"""The table of verdicts, verdicts.csv: a row for each claim of a study, or of many."""

import typing
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from videonorm.study.study_file import RATIOS
from videonorm.sweep.csv_table import from_text, read_table, write_table

Decision = Literal["supported", "refuted", "equivalent", "not decided"]


@dataclass(frozen=True)
class Verdict:
    """What has become of a claim. The fields are the columns of verdicts.csv; None is an empty field.

    Attributes:
        study: its name.
        claim: its id.
        sentence, source, reported, statistic: the claim's.
        verdict: by the rule of ``claims``.
        effect: of what is claimed, in ``unit``; None where no run, or no pair of runs, has a value.
        low, high: of its 95 % interval; infinite where the largest stable value lies beyond all tried.
        unit: such as "points" (of percent), "x" (a ratio) or the measured column.
        margin: of the claim, in ``unit``; for a ratio, the share by which it differs from 1.
        needs: what would decide it, where it is not decided.
        seeds: that count for the effect: those of which every cell has a value.
        videos: that the scores are of; None for what is not measured on videos.
        runs: of its cells that have ended, failed ones too.
        core_minutes: that these trained, without validation, a core each unless --jobs gives them more.
        made_on: the machines, versions and commits of the study's runs.
    """

    study: str
    claim: str
    sentence: str
    source: str
    reported: str
    statistic: str
    verdict: Decision
    effect: float | None
    low: float | None
    high: float | None
    unit: str
    margin: float
    needs: str
    seeds: int
    videos: int | None
    runs: int
    core_minutes: float
    made_on: str = ""

    @property
    def is_ratio(self) -> bool:
        """Whether no effect is 1 and not 0."""
        return self.statistic in RATIOS


def write_verdicts(path: Path, verdicts: Iterable[Verdict]) -> None:
    write_table(path, [of.name for of in fields(Verdict)], map(asdict, verdicts))


def read_verdicts(path: Path) -> list[Verdict]:
    """Rows of a verdicts.csv.

    Raises:
        UserError: the file is missing, or is not a table of verdicts.
    """
    return read_table(path, "verdicts", "study", _verdict)


def _verdict(row: dict[str, str]) -> Verdict:
    kinds = {**typing.get_type_hints(Verdict), "verdict": str}
    verdict = Verdict(**{name: from_text(kind, row[name]) for name, kind in kinds.items()})
    if verdict.verdict not in typing.get_args(Decision):
        raise ValueError(f"verdict ({verdict.verdict}) must be one of {', '.join(typing.get_args(Decision))}")
    return verdict
