"""What a sweep's folder holds of all its runs, whoever trains them: sweep.json and results.csv.

sweep.json says what was asked, run by run, and which machines and versions answered. The rows of results.csv
are gathered from the runs' folders: shards on several machines write one table, and none needs to know of the
others.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videonorm import files
from videonorm.errors import UserError
from videonorm.sweep.locks import SECONDS_TO_WAIT, TABLE, holding
from videonorm.sweep.plan import Plan
from videonorm.sweep.records import holds_work, planned, read_json, read_result
from videonorm.sweep.results import Result, read_results, write_results

ORIGIN = ("machine", "versions", "commit")  # of run.json


class SweepFolder:
    """The table of a sweep, and what it is of.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, tuple[Result, dict[str, Any]]] = {}  # a row that is done stays as it is

    def take(self, plan: Plan, others_work: bool) -> None:
        """Make it the folder of a plan.

        Args:
            others_work: other shards of the sweep are at work here.

        Raises:
            UserError: it has results, or checkpoints, of runs that are not in the plan, or the others' plan
                is another.
        """
        runs = [planned(run) for run in plan.runs]
        with holding(self.path / TABLE, SECONDS_TO_WAIT):
            before = read_json(self.path / "sweep.json").get("runs")
            if others_work and before not in (None, runs):
                raise UserError(
                    f"{self.path} is in use by shards of other runs than this sweep has; give all shards the "
                    "same file and options, or give another --output"
                )
            self._check_covered({run["run"] for run in runs})
            asked = {"name": plan.name, "num_runs": len(runs), "sweep": plan.source}
            files.write_json(self.path / "sweep.json", {**asked, "origins": [], "runs": runs})
            self._gather(())

    def _check_covered(self, names: set[str]) -> None:
        table = self.path / "results.csv"
        held = {row.run for row in (read_results(table) if table.exists() else []) if row.done}
        held |= {path.parent.name for path in self.path.glob("*/asked.json") if holds_work(path.parent)}
        if others := sorted(held - names):
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise UserError(
                f"{self.path} holds runs that this sweep has not ({others[0]}{more}), and its results.csv "
                "and report would lose them; give another --output, or all the arms, shapes and seeds it has"
            )

    def gather(self, *, kept: Sequence[Result] = ()) -> list[Result]:
        """Write a row for each run that has ended, in the order of the plan, and return them.

        Args:
            kept: rows of runs whose folders may be gone.
        """
        with holding(self.path / TABLE, SECONDS_TO_WAIT):
            return self._gather(kept)

    def _gather(self, kept: Sequence[Result]) -> list[Result]:
        about = read_json(self.path / "sweep.json")
        row_of = {row.run: row for row in kept}
        rows: list[Result] = []
        origins: list[dict[str, Any]] = about["origins"] if row_of else []
        for run in about["runs"]:
            name, folder = run["run"], self.path / run["run"]
            row: Result | None
            origin: dict[str, Any]
            if name in self._done:
                row, origin = self._done[name]
            elif (folder / "asked.json").exists():
                row, origin = read_result(folder, run), origin_of(folder)
            else:
                row, origin = row_of.get(name), {}
            if row and row.done:
                self._done[name] = row, origin
            if row:
                rows.append(row)
            if origin and origin not in origins:
                origins = [*origins, origin]
        write_results(self.path / "results.csv", rows)
        files.write_json(self.path / "sweep.json", {**about, "origins": origins})
        return rows


def gather_again(output: Path) -> None:
    """Bring results.csv up to what the run folders hold: shards may be at work, or have been killed.

    A run whose folder is gone keeps its row; a table that came without its sweep.json stays as it is.

    Raises:
        UserError: a file is not as a sweep writes it.
    """
    about, table = output / "sweep.json", output / "results.csv"
    if not read_json(about).get("runs"):
        return
    try:
        SweepFolder(output).gather(kept=read_results(table) if table.exists() else ())
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{about} must be as a sweep writes it: {type(error).__name__} {error}") from error


def origin_of(folder: Path) -> dict[str, Any]:
    """What has trained a run: machine, versions, commit; empty before it has begun."""
    recorded = read_json(folder / "run.json")
    return {key: recorded.get(key) for key in ORIGIN} if recorded else {}
