"""What the runs of a sweep started from, beside what they ended with: what an arm keeps of what it learnt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videonorm.intervals import Estimate, difference
from videonorm.sweep.cells import Cell, cells_of, with_result
from videonorm.sweep.results import read_results

PRETRAIN = "pretrain"  # the folder of that stage in a sweep's


@dataclass(frozen=True)
class Transfer:
    """A cell, and the one of the pretraining that its runs started from, seed by seed.

    Args:
        before, after: the two.
        start_of: the run of ``before`` that each of ``after`` started from.
    """

    before: Cell
    after: Cell
    start_of: Mapping[str, str]

    @property
    def change(self) -> Estimate | None:
        """Top-1 after minus before, each on its own validation videos.

        None where these are not as many, or of other classes: then it is another task.
        """
        of_run = {result.run: result for result in self.before.done}
        starts = [(of_run.get(self.start_of.get(result.run, "")), result) for result in self.after.done]
        pairs = [(before, after) for before, after in starts if before]
        if not pairs or any((a.val_videos, a.num_classes) != (b.val_videos, b.num_classes) for a, b in pairs):
            return None
        before, after = ([of.val_top1 or 0.0 for of in side] for side in zip(*pairs, strict=True))
        return difference(after, before, self.after.num_videos)


def read_transfers(output: Path, about: Mapping[str, Any], cells: Iterable[Cell]) -> list[Transfer]:
    """Of every cell with a result whose runs started from others; none in a sweep without pretraining.

    Args:
        output: folder of the sweep.
        about: contents of its sweep.json.
        cells: of it.

    Raises:
        UserError: the pretraining's results.csv cannot be read.
    """
    start_of = {run["run"]: run["starts_from"] for run in about.get("runs", []) if "starts_from" in run}
    if not start_of:
        return []
    results = read_results(output / PRETRAIN / "results.csv")
    before = {result.run: cell for cell in cells_of(results) for result in cell.done}
    found = []
    for cell in with_result(cells):
        start = next((of for result in cell.done if (of := start_of.get(result.run)) in before), None)
        if start:
            found.append(Transfer(before[start], cell, start_of))
    return found
