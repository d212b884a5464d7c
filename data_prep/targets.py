"""Where transcode.py puts the file that it makes of a row."""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rows import Row

from videonorm.data.decoding.location import is_remote

Video = tuple[str, float | None, float | None]  # path, start_seconds, end_seconds


def targets_of(rows: Sequence[Row], folder: Path) -> list[str]:
    """The file of each row, by its path below its base, or else by its whole path.

    a.avi becomes a.mp4, and a.avi.mp4 if a.mkv is there too. If that is another's as well, as that of
    a.avi.mp4 below another base, a digest of path and stretch is put in. So the same rows, in whatever order,
    have the same files, and no two videos have one.
    """
    videos = [(os.path.normpath(row.path), row.start_seconds, row.end_seconds) for row in rows]
    added = dict.fromkeys(videos, 0)  # to the plain name
    while True:
        targets = [_target(row, folder, added[video]) for row, video in zip(rows, videos, strict=True)]
        claims: defaultdict[str, set[Video]] = defaultdict(set)
        for target, video in zip(targets, videos, strict=True):
            claims[target].add(video)
        shared = [claim for claim in claims.values() if len(claim) > 1]
        if not shared:
            return targets
        for claim in shared:
            least = min(added[video] for video in claim)
            added |= {video: least + 1 for video in claim if added[video] == least}


def _target(row: Row, folder: Path, added: int) -> str:
    inside = _name_of(row.path).removeprefix(os.path.join(_name_of(row.base), "")).lstrip(os.sep)
    stem, suffix = os.path.splitext(re.sub(r"[\r\n]", "_", inside))  # manifests are read by lines
    bounds = (row.start_seconds, row.end_seconds)
    if bounds != (None, None):
        stem += "_" + "_".join("" if bound is None else f"{bound:g}" for bound in bounds)
    if added > 0:
        stem += suffix
    if added > 1:
        whole = json.dumps([os.path.normpath(row.path), *bounds])
        stem += f"-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"
    return os.path.join(folder, f"{stem}.mp4")


def _name_of(path: str) -> str:
    """Of a URL without what would not do, or be too much, in the name of a file."""
    return os.path.normpath(path.partition("://")[2].partition("?")[0] if is_remote(path) else path)
