"""An evaluation in parts: the scores of each are kept, so that the same command goes on from there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videonorm.data import BadVideo
from videonorm.evaluation.kept_parts import KeptParts, read_record
from videonorm.evaluation.scores import VideoScores
from videonorm.files import write_json

NOTES = "notes.json"


class Parts(KeptParts):
    """The rows of a table of scores that one process is to fill in, and what it keeps of them.

    Args:
        scores: of all videos; this process's are entered by whoever scores them.
        batch_size, folder, asked, rank, count: see ``KeptParts``.

    Raises:
        UserError: the folder holds parts of another evaluation, or another process is at this one.
    """

    work = "evaluation"

    def __init__(
        self,
        scores: VideoScores,
        batch_size: int,
        folder: Path | None = None,
        asked: Mapping[str, Any] | None = None,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        super().__init__(len(scores.probabilities), batch_size, folder, asked, rank, count)
        self.scores = scores
        self.notes: list[Any] | None = None
        self._bad: dict[int, list[BadVideo]] = {}
        if folder is not None and (folder / NOTES).exists():
            self.notes = read_record(folder / NOTES).get("notes")

    def finish(self, part: int, bad: list[BadVideo]) -> None:
        """Keep a part whose videos are entered; ``bad`` are those of it that could not be scored."""
        self._bad[part] = bad
        if self.folder is not None:
            self.keep(
                part, {"bad": np.array(bad, np.str_).reshape(-1, 2), **self.scores.state(self.rows(part))}
            )

    def gather(self) -> list[BadVideo]:
        """Enter what was kept of all parts, when all are done; returns the bad videos, in order."""
        bad = []
        for part in self.all:
            if part not in self._bad:
                self._bad[part] = self._enter(part)
            bad += self._bad[part]
        return bad

    def note(self, notes: list[Any]) -> None:
        """Keep what was found on the way, for whichever session ends the evaluation: ``notes``."""
        self.notes = notes
        if self.folder is not None:
            write_json(self.folder / NOTES, {"notes": notes})

    def _enter(self, part: int) -> list[BadVideo]:
        def enter(arrays: Mapping[str, NDArray[Any]]) -> list[BadVideo]:
            self.scores.load(self.rows(part), arrays)
            return [BadVideo(*of) for of in arrays["bad"].tolist()]

        return self.read(part, enter)
