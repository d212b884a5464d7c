"""The summary of `videonorm bench all`: what became of its stages, and of the goals, in summary.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from videonorm.bench.goals import goal_table, judge
from videonorm.bench.records import Row, read_rows
from videonorm.bench.stages import Stage
from videonorm.bench.tables import Table, made_on
from videonorm.errors import UserError
from videonorm.files import write_json

Status = Literal["done", "in part", "failed", "stopped", "skipped", "left out"]


@dataclass(frozen=True)
class Outcome:
    """What became of a stage.

    Attributes:
        status: "in part" is a stage that was ended at its limit and has left rows; "skipped" is one that
            cannot run here, "left out" one for which there was no time.
        seconds: that it ran, or 0.
        why: it is not done, or not all of it.
    """

    name: str
    status: Status
    seconds: float = 0.0
    why: str = ""


class Summary:
    """The summary of a folder, which is written whenever a stage has ended.

    Args:
        about: the machine, versions and commit.

    Raises:
        UserError: the folder holds what was made on something else, or files that are not a summary's.
    """

    def __init__(self, out: Path, about: Row, stages: Sequence[Stage], on_gpu: bool) -> None:
        self.path = out / "summary.json"
        self.about = about
        self._stages, self._on_gpu = stages, on_gpu
        self.outcomes = self._read()

    def _read(self) -> dict[str, Outcome]:
        """What a run before has left."""
        own = f"--out ({self.path.parent}) must be a folder of its own"
        if not self.path.exists():
            files = [path for stage in self._stages for path in self._files(stage.name) if path.exists()]
            if files:
                raise UserError(f"{own}: it holds {files[0].name} and no {self.path.name}")
            return {}
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            about, outcomes = record["made_on"], [Outcome(**stage) for stage in record["stages"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} must be a summary of `videonorm bench all`: {error!r}") from error
        if others := [name for name in {**self.about, **about} if self.about.get(name) != about.get(name)]:
            then, now = (what.get(others[0]) for what in (about, self.about))
            raise UserError(f"{own}: what it holds was made with {others[0]} {then}, and here it is {now}")
        if str(about["commit"]).endswith("-dirty"):
            raise UserError(f"{own}: what it holds was made with changed files, which may be others now")
        return {outcome.name: outcome for outcome in outcomes}

    def clear(self, name: str) -> None:
        """Remove what a stage has left that begins again."""
        for path in self._files(name):
            path.unlink(missing_ok=True)

    def enter(self, outcome: Outcome) -> None:
        self.outcomes[outcome.name] = outcome
        self.write()

    def write(self) -> None:
        rows = {stage.name: self.rows(stage.name) for stage in self._stages}
        record = {
            "made_on": self.about,
            "stages": [asdict(outcome) for outcome in self._in_order()],
            "goals": [judgement.as_record() for judgement in judge(rows, self._on_gpu)],
        }
        write_json(self.path, record)

    def rows(self, name: str) -> list[Row]:
        """The rows that a stage has written by now."""
        for path in self._files(name)[:2]:
            if path.exists():  # of a process that was killed, the last may be half a row
                return [row for row in read_rows(path) if None not in row.values()]
        return []

    def is_complete(self, name: str) -> bool:
        """Whether a stage has written all its rows: they then have their own name."""
        return self._files(name)[0].exists()

    def log(self, name: str) -> Path:
        return self.path.with_name(f"{name}.log")

    def show(self) -> None:
        """Print the stages, the goals, and what they were made on."""
        from rich.text import Text

        from videonorm.bench.terminal import new_console, print_table

        console = new_console()
        rows = {stage.name: self.rows(stage.name) for stage in self._stages}
        stages = [
            [one.name, one.status, f"{one.seconds:.0f}", str(len(rows[one.name]) or ""), one.why]
            for one in self._in_order()
        ]
        print_table(console, Table("Stages", ["", "", "seconds", "rows", "why"], stages))
        print_table(console, goal_table(judge(rows, self._on_gpu)))
        console.print(made_on(self.about), soft_wrap=True)
        console.print(Text(str(self.path)), soft_wrap=True)

    def _in_order(self) -> list[Outcome]:
        return [self.outcomes[stage.name] for stage in self._stages if stage.name in self.outcomes]

    def _files(self, name: str) -> list[Path]:
        """Results, those of a stage that was killed, and the log."""
        return [self.path.with_name(f"{name}{suffix}") for suffix in (".csv", ".csv.partial", ".log")]
