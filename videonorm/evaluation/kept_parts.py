"""Work on many videos in parts: what is done is kept aside, so that the same command goes on from there.

The videos of a manifest, in its order, are dealt into parts of a few whole batches. Of n processes, the one
of rank r does every n-th part from the r-th on; one that is done is a file in a folder beside the result.
So a process that is killed loses a part at the most, several need nothing in common but that folder, and a
video goes through the network among the same others, to the same bits, whoever does it.
"""

import hashlib
import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from videonorm.data import Manifest
from videonorm.errors import UserError
from videonorm.evaluation.artifact import CARD_FILE, WEIGHTS_FILE
from videonorm.files import NO_LOCKS, hold, open_new, sha256, write_json
from videonorm.messages import one_line

MOST_PARTS = 512  # files, each of which the disk is waited for
ASKED, LOCK = "asked.json", "lock"

T = TypeVar("T")


def digest_of_artifact(path: Path) -> str:
    """Of what is loaded, wherever it lies."""
    files = [path / CARD_FILE, path / WEIGHTS_FILE] if path.is_dir() else [path]
    return " ".join(map(sha256, files))


def digest_of_videos(manifest: Manifest) -> str:
    """Of where they lie, their labels and their stretches."""
    return hashlib.sha256(repr(list(manifest.entries)).encode(errors="surrogateescape")).hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz file."""
    named: dict[str, Any] = dict(arrays)  # or mypy takes one of them for an option of savez
    with open_new(path, "wb") as file:
        np.savez(file, **named)


def read_record(path: Path) -> dict[str, Any]:
    """A record of ``write_json``; UserError where it is damaged."""
    with _as_written(path):
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it is no record")
    return record


@contextmanager
def _as_written(path: Path) -> Iterator[None]:
    """Name a file that turns out to be damaged."""
    try:
        yield
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} must be as videonorm wrote it ({one_line(error)}); once it is deleted, the same "
            "command makes it again"
        ) from error


class KeptParts:
    """The parts that one process is to do, and the folder that keeps them.

    Args:
        batch_size: videos of a batch; parts begin where batches do.
        folder: where parts are kept, for the next session and for the other processes; None keeps none.
        asked: all that the result depends on.
        rank, count: of this process and of all.

    Raises:
        UserError: the folder holds parts of something else, or another process is at this.
    """

    work = "work"  # what the parts are of, in an error

    def __init__(
        self,
        num_videos: int,
        batch_size: int,
        folder: Path | None = None,
        asked: Mapping[str, Any] | None = None,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.folder = folder
        self.rank = rank
        self._num_videos = num_videos
        batches = math.ceil(num_videos / batch_size)
        self.size = batch_size * max(1, math.ceil(batches / MOST_PARTS))
        self._lock: IO[str] | None = None
        if folder is not None:
            self._open(folder, json.loads(json.dumps(asked or {})))
        self.all = range(math.ceil(num_videos / self.size))
        self.own = self.all[rank::count]
        self.todo = [part for part in self.own if folder is None or not self._path(part).exists()]

    def rows(self, part: int) -> range:
        """The places of a part's videos among all."""
        return range(part * self.size, min((part + 1) * self.size, self._num_videos))

    def num_videos(self, parts: Iterable[int]) -> int:
        return sum(len(self.rows(part)) for part in parts)

    def keep(self, part: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a part that is done."""
        write_arrays(self._path(part), arrays)

    def read(self, part: int, take: Callable[[Mapping[str, NDArray[Any]]], T]) -> T:
        """What ``take`` makes of the arrays of a part that was kept.

        Raises:
            UserError: they cannot be read, or ``take`` finds them to be others.
        """
        path = self._path(part)
        with _as_written(path), np.load(path, allow_pickle=False) as arrays:
            return take(arrays)

    def discard(self) -> None:
        """The result is written: nothing need be kept."""
        self.close()
        if self.folder is not None:
            shutil.rmtree(self.folder)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _open(self, folder: Path, asked: Mapping[str, Any]) -> None:
        if self.rank == 0:
            try:
                self._lock = hold(folder / LOCK)
            except BlockingIOError as error:
                raise UserError(
                    f"out must be of one {self.work} at a time: {folder} {error.strerror}"
                ) from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
        if not (folder / ASKED).exists():
            write_json(folder / ASKED, asked)
            return
        try:
            self._compare(folder, read_record(folder / ASKED), asked)
        except UserError:
            self.close()
            raise

    def _compare(self, folder: Path, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raise UserError if the parts that are kept are not of what is asked now."""
        for name in [*now, *(name for name in kept if name not in now)]:
            if kept.get(name) != now.get(name):
                was, wanted = (str(of.get(name)) for of in (kept, now))
                # A digest tells nobody anything.
                how = f"was {was}, not {wanted}" if max(len(was), len(wanted)) < 64 else "was another"
                raise UserError(
                    f"{name} must be as when this {self.work} began, and {how}; {folder} keeps what is done "
                    "of it: finish it, or delete that folder to start anew"
                )

    def _path(self, part: int) -> Path:
        assert self.folder is not None
        return self.folder / f"part-{part:05}.npz"
