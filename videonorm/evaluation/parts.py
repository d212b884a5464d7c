"""An evaluation in parts: what is scored is kept aside, so that the same command goes on from there.

The videos of a manifest, in its order, are dealt into parts of a few whole batches. Of n processes, the one
of rank r scores every n-th part from the r-th on; one that is done is a file in a folder beside the result.
So a process that is killed loses a part at the most, several need nothing in common but that folder, and a
video is scored among the same others, to the same bits, whoever scores it.
"""

import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from videonorm.data import BadVideo
from videonorm.errors import UserError
from videonorm.evaluation.scores import VideoScores
from videonorm.files import NO_LOCKS, hold, open_new, write_json
from videonorm.messages import one_line

MOST_PARTS = 512  # files, each of which the disk is waited for
ASKED, NOTES, LOCK = "asked.json", "notes.json", "lock"


@dataclass
class Parts:
    """The rows of a table of scores that one process is to fill in, and what it keeps of them.

    Args:
        scores: of all videos; this process's are entered by whoever scores them.
        batch_size: videos of a batch; parts begin where batches do.
        folder: where parts are kept, for the next session and for the other processes; None keeps none.
        asked: all that the scores depend on.
        rank, count: of this process and of all.

    Raises:
        UserError: the folder holds parts of another evaluation, or another process is at this one.
    """

    scores: VideoScores
    batch_size: int
    folder: Path | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        num_videos = len(self.scores.probabilities)
        batches = math.ceil(num_videos / self.batch_size)
        self.size = self.batch_size * max(1, math.ceil(batches / MOST_PARTS))
        self.notes: list[Any] | None = None
        self._bad: dict[int, list[BadVideo]] = {}
        self._lock: IO[str] | None = None
        if self.folder is not None:
            self._open(self.folder)
        parts = range(math.ceil(num_videos / self.size))
        self.own = parts[self.rank :: self.count]
        self.todo = [part for part in self.own if not self._is_kept(part)]

    def rows(self, part: int) -> range:
        return range(part * self.size, min((part + 1) * self.size, len(self.scores.probabilities)))

    def num_videos(self, parts: "range | list[int]") -> int:
        return sum(len(self.rows(part)) for part in parts)

    def finish(self, part: int, bad: list[BadVideo]) -> None:
        """Keep a part whose videos are entered; ``bad`` are those of it that could not be scored."""
        self._bad[part] = bad
        if self.folder is None:
            return
        arrays: dict[str, Any] = self.scores.state(self.rows(part))
        with open_new(self._path(part), "wb") as file:
            np.savez(file, allow_pickle=False, bad=np.array(bad, np.str_).reshape(-1, 2), **arrays)

    def gather(self) -> list[BadVideo]:
        """Enter what was kept of all parts, when all are done; returns the bad videos, in order."""
        bad = []
        for part in range(math.ceil(len(self.scores.probabilities) / self.size)):
            if part not in self._bad:
                self._bad[part] = self._read(part)
            bad += self._bad[part]
        return bad

    def note(self, notes: list[Any]) -> None:
        """Keep what was found on the way, for whichever session ends the evaluation: ``notes``."""
        self.notes = notes
        if self.folder is not None:
            write_json(self.folder / NOTES, {"notes": notes})

    def discard(self) -> None:
        """The result is written: nothing need be kept."""
        self.close()
        if self.folder is not None:
            shutil.rmtree(self.folder)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _open(self, folder: Path) -> None:
        if self.rank == 0:
            try:
                self._lock = hold(folder / LOCK)
            except BlockingIOError as error:
                raise UserError(
                    f"out must be of one evaluation at a time: {folder} {error.strerror}"
                ) from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
        if (folder / ASKED).exists():
            self._compare(folder, json.loads((folder / ASKED).read_text(encoding="utf-8")))
        else:
            write_json(folder / ASKED, self.asked)
        if (folder / NOTES).exists():
            self.notes = json.loads((folder / NOTES).read_text(encoding="utf-8"))["notes"]

    def _compare(self, folder: Path, kept: Mapping[str, Any]) -> None:
        """Raise UserError if the parts that are kept are not of what is asked now."""
        now = json.loads(json.dumps(self.asked))
        for name in [*now, *(name for name in kept if name not in now)]:
            if kept.get(name) != now.get(name):
                self.close()
                was, wanted = (str(of.get(name)) for of in (kept, now))
                # A digest tells nobody anything.
                how = f"was {was}, not {wanted}" if max(len(was), len(wanted)) < 64 else "was another"
                raise UserError(
                    f"{name} must be as when this evaluation began, and {how}; {folder} keeps what is done "
                    "of it: finish it, or delete that folder to start anew"
                )

    def _path(self, part: int) -> Path:
        assert self.folder is not None
        return self.folder / f"part-{part:05}.npz"

    def _is_kept(self, part: int) -> bool:
        return self.folder is not None and self._path(part).exists()

    def _read(self, part: int) -> list[BadVideo]:
        path = self._path(part)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                self.scores.load(self.rows(part), arrays)
                return [BadVideo(*of) for of in arrays["bad"].tolist()]
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{path} must be as videonorm wrote it ({one_line(error)}); once it is deleted, the same "
                "command scores its videos again"
            ) from error
