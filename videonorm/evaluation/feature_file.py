"""The file of features, and its parts: what is done is kept, so that the same command goes on from there.

The videos, in their order, are dealt into parts of a few whole batches. One that is done is a file in a
folder beside the result, so that a process that is killed loses one part at the most; a video goes through
the network among the same others whenever that is, and the file becomes the same to the last bit.
"""

import json
import math
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videonorm.errors import UserError
from videonorm.files import NO_LOCKS, hold, open_new, write_json
from videonorm.messages import one_line

MOST_PARTS = 512  # files, each of which the disk is waited for


class FeatureFile:
    """An .npz file in the making. Use it as a context manager.

    Args:
        path: of the file; what is done of it is kept in the folder ``path.parts``.
        asked: all that the features depend on.

    Raises:
        UserError: the folder keeps parts of something else, or another process is at this one.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], num_videos: int, batch_size: int) -> None:
        self.path = path
        self.folder = path.with_name(f"{path.name}.parts")
        self._num_videos = num_videos
        batches = math.ceil(num_videos / batch_size)
        self._size = batch_size * max(1, math.ceil(batches / MOST_PARTS))
        self._lock = None
        try:
            self._lock = hold(self.folder / "lock")
        except BlockingIOError as error:
            raise UserError(f"out ({path}) must be written by one process: {error.strerror}") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        self._check(json.loads(json.dumps(asked)))
        self.todo = [
            part for part in range(math.ceil(num_videos / self._size)) if not self._part(part).exists()
        ]

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def rows(self, part: int) -> range:
        """The places of a part's videos among all."""
        return range(part * self._size, min((part + 1) * self._size, self._num_videos))

    def keep(self, part: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a part, with the same names and dtypes in each; what concerns no video has no rows."""
        with open_new(self._part(part), "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def join(self) -> dict[str, NDArray[Any]]:
        """The arrays of all parts, when all are done."""
        parts = [self._read(self._part(part)) for part in range(math.ceil(self._num_videos / self._size))]
        arrays = {}
        for name in parts[0]:
            pieces = [of[name] for of in parts if len(of[name])]
            arrays[name] = np.concatenate(pieces) if pieces else parts[0][name]
        return arrays

    def finish(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the file, unless there is nothing to write, and let go of the parts."""
        if arrays:
            with open_new(self.path, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        shutil.rmtree(self.folder)

    def _check(self, asked: dict[str, Any]) -> None:
        """Note what is asked, or raise UserError if the parts that are kept are of something else."""
        path = self.folder / "asked.json"
        if not path.exists():
            write_json(path, asked)
            return
        kept = json.loads(path.read_text(encoding="utf-8"))
        for name, value in asked.items():
            if kept.get(name) != value:
                raise UserError(
                    f"{name} must be as when these features were begun; {self.folder} keeps what is done "
                    "of them: finish them, or delete that folder to start anew"
                )

    def _part(self, part: int) -> Path:
        return self.folder / f"part-{part:05}.npz"

    def _read(self, path: Path) -> dict[str, NDArray[Any]]:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} must be as videonorm wrote it ({one_line(error)}); without it the same command "
                "makes it again"
            ) from error
