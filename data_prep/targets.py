"""Where transcode.py puts the file that it makes of a row."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from rows import Row
from script import printable

from videonorm.data.decoding.location import is_remote
from videonorm.errors import UserError


def targets_of(rows: Sequence[Row], folder: Path) -> list[str]:
    """The file of each row, by its path below its base, or else by its whole path: no other row moves it.

    Raises:
        UserError: rows of different videos would have the same.
    """
    targets = [_target(row, folder, ".mp4") for row in rows]
    made_of: dict[str, set[str]] = {}
    for target, row in zip(targets, rows, strict=True):
        made_of.setdefault(target, set()).add(os.path.normpath(row.path))
    # a.avi beside a.mp4 becomes a.avi.mp4
    targets = [
        target
        if len(made_of[target]) == 1
        else _target(row, folder, os.path.splitext(_name_of(row.path))[1] + ".mp4")
        for target, row in zip(targets, rows, strict=True)
    ]
    owner: dict[str, tuple[str, float | None, float | None]] = {}
    for target, row in zip(targets, rows, strict=True):
        video = (os.path.normpath(row.path), row.start_seconds, row.end_seconds)
        if owner.setdefault(target, video) != video:
            raise UserError(
                f"path ({printable(row.path)}) must not lead to the same new file as "
                f"{printable(owner[target][0])}: give manifests of different folders a common --root"
            )
    return targets


def _target(row: Row, folder: Path, suffix: str) -> str:
    inside = _name_of(row.path).removeprefix(os.path.join(_name_of(row.base), "")).lstrip(os.sep)
    stem = re.sub(r"[\r\n]", "_", os.path.splitext(inside)[0])  # manifests are read by lines
    bounds = (row.start_seconds, row.end_seconds)
    if bounds != (None, None):
        stem += "_" + "_".join("" if bound is None else f"{bound:g}" for bound in bounds)
    return os.path.join(folder, stem + suffix)


def _name_of(path: str) -> str:
    """Of a URL without what would not do, or be too much, in the name of a file."""
    return os.path.normpath(path.partition("://")[2].partition("?")[0] if is_remote(path) else path)
