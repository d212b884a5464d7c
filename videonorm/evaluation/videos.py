"""The videos that a person names on a command line: files, folders, patterns and URLs."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videonorm.errors import UserError

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from videonorm.data import Manifest

HELP = (
    "a file, a folder (all videos in it, at any depth, by their suffixes), a pattern in quotes such as "
    "'clips/**/*.mp4', or a URL of one video: https://, s3://, gs:// (extra [remote])"
)


def find_videos(given: Sequence[str]) -> list[str]:
    """The paths and URLs that ``given`` stand for, each once, in this order and that of their names.

    A single file is taken whatever its suffix, and even if it is not there: opening it says what is wrong.

    Raises:
        UserError: a folder without a video, or a pattern that matches none.
    """
    from videonorm.data.class_folders import VIDEO_SUFFIXES, files_below
    from videonorm.data.decoding.location import is_remote

    def below(folder: str) -> list[str]:
        return [os.path.join(folder, path) for path, _ in files_below(folder) if is_video(path)]

    def is_video(path: str) -> bool:
        name = os.path.basename(path)
        return name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")

    found: dict[str, None] = {}
    for video in given:
        if is_remote(video):
            of_it = [video]
        elif os.path.isdir(video):
            of_it = below(video)
            if not of_it:
                raise UserError(f"video ({video}) must be a folder with videos in it, and it holds none")
        elif glob.has_magic(video) and not os.path.exists(video):
            of_it = []
            for path in sorted(glob.glob(video, recursive=True)):
                of_it += below(path) if os.path.isdir(path) else [path] if is_video(path) else []
            if not of_it:
                raise UserError(f"video ({video}) must match at least one video file, and matches none")
        else:
            of_it = [video]
        found.update(dict.fromkeys(of_it))
    return list(found)


def as_manifest(videos: Sequence[str], num_classes: int) -> Manifest:
    """A manifest of them without labels, beside which no packet indices are kept."""
    from videonorm.data import Entries, Manifest
    from videonorm.data.entries import UNLABELLED

    return Manifest(Path("the videos given"), Entries(videos, [UNLABELLED] * len(videos)), num_classes)
