"""The files that the videos of a list are in, and what is missing, duplicate, unlabelled or not listed."""

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from listing import Listed, Listing, split_of_folder

from videonorm.data import Split
from videonorm.data.class_folders import VIDEO_SUFFIXES, files_below, spaced


class Problem(NamedTuple):
    """A row of problems.csv; its video is in no manifest, unless it is a duplicate in two splits."""

    status: str  # missing, duplicate, unreadable, unlabelled or unlisted
    path: str  # or the name as listed, where there is no file
    reason: str
    video: Listed | None = None  # None for a file that is in no list


class Match(NamedTuple):
    """A listed video and the files that may serve for it, the best first."""

    listed: Listed
    paths: list[str]  # absolute


class Videos:
    """The video files below a folder, found by name whatever their suffix is."""

    def __init__(self, root: Path, skip: Path | None = None) -> None:
        self.root = root.absolute()
        beside = os.path.join(os.path.realpath(skip), "") if skip is not None else None
        self.real = {  # paths below the root -> without links
            path: real
            for path, real in files_below(str(self.root))
            if is_video(path) and not (beside and real.startswith(beside))
        }
        self.paths = sorted(self.real)
        self._by_path: dict[str, list[str]] = defaultdict(list)
        self._by_end: dict[str, list[str]] = defaultdict(list)  # by file name, and by folder and file name
        for path in self.paths:
            key = self._key(path)
            self._by_path[key].append(path)
            parts = key.split(os.sep)
            self._by_end[parts[-1]].append(path)
            if len(parts) > 1:
                self._by_end[os.sep.join(parts[-2:])].append(path)

    def _key(self, path: str) -> str:
        stem, suffix = os.path.splitext(path)
        return spaced(stem if suffix.lower() in VIDEO_SUFFIXES else path)

    def find(self, name: str, split: Split) -> list[str]:
        """Absolute paths of the files that can be meant, the best first."""
        if os.path.isabs(name):
            if name.startswith(str(self.root) + os.sep):
                name = os.path.relpath(name, self.root)
            elif os.path.lexists(name):
                return [name]  # or the list was made on another machine
        name = os.path.normpath(name)
        key = self._key(name)
        end = os.sep.join(key.split(os.sep)[-2:])
        if os.sep not in name:
            found = self._by_end.get(key, [])
        elif key in self._by_path:
            found = self._by_path[key]
        else:  # below other folders, but the training list's class/1.mp4 is not val/class/1.mp4; or in none
            found = [path for path in self._by_end.get(end, []) if self._split_of(path) in (None, split)]
            found = found or self._by_path.get(os.path.basename(key), [])
        best = sorted(found, key=lambda path: (path != name, self._split_of(path) != split, path))
        if not best and os.path.isfile(exact := os.path.join(self.root, name)):
            return [exact]  # of a suffix that is none of a video's
        return [os.path.join(self.root, path) for path in best]

    def _split_of(self, path: str) -> Split | None:
        return next(filter(None, map(split_of_folder, path.split(os.sep)[:-1])), None)


def is_video(path: str) -> bool:
    name = os.path.basename(path)
    return name[0] != "." and name.lower().endswith(VIDEO_SUFFIXES)


def match(listing: Listing, videos: Videos, replacement: Videos | None) -> tuple[list[Match], list[Problem]]:
    """Find the file of each listed video; what is missing, unlabelled or duplicate is a problem."""
    labelled = {video.split for video in listing.videos if video.label is not None}
    matches: list[Match] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, float | None, float | None], dict[Split, Listed]] = defaultdict(dict)
    used: set[str] = set()
    copies: dict[str, str] = {}  # a further file of the same name -> the one used

    def note(status: str, reason: str) -> None:
        problems.append(Problem(status, video.name, reason, video))

    for video in listing.videos:
        found = videos.find(video.name, video.split)
        better = replacement.find(os.path.basename(video.name), video.split) if replacement else []
        used.update(found[:1])
        copies.update((path, found[0]) for path in found[1:])
        if video.label is None and video.split in labelled:
            note("unlabelled", "has no label, as others of its split have")
            continue
        # A bare name is the publisher's name of the video; a path may be one of several links to a file.
        file = os.path.realpath(found[0]) if found and os.sep in video.name else video.name
        listed = seen[file, video.start_seconds, video.end_seconds]
        if first := listed.get(video.split):
            another = "" if first.label == video.label else ", with another label"
            note("duplicate", f"is the same video as in {first.where}{another}")
            continue
        if listed:
            first = next(iter(listed.values()))
            note("duplicate", f"is in split {first.split} too, in {first.where}")
        listed[video.split] = video
        paths = [*better[:1], *found[:1]]
        if not paths:
            note("missing", "has no file")
        elif any("\r" in path for path in paths):
            note("unreadable", "has a carriage return in its path, which a manifest cannot hold")
        else:
            matches.append(Match(video, paths))
    return matches, problems + _unlisted(listing, videos, used, copies)


def _unlisted(listing: Listing, videos: Videos, used: set[str], copies: dict[str, str]) -> list[Problem]:
    """The files that are in no list. A link to a file that is used is not among them.

    Args:
        used: absolute paths.
        copies: further files of the same name, with the one that is used.
    """
    below = os.path.join(videos.root, "")
    real_used = {videos.real.get(path.removeprefix(below), path) for path in used}
    left_out = dict(listing.left_out)
    problems = []
    for path in sorted({*videos.paths, *left_out}):
        whole = os.path.join(videos.root, path)
        if videos.real.get(path) in real_used:
            continue
        if whole in copies:
            reason = f"has the same name as {copies[whole]}, which is used"
            problems.append(Problem("duplicate", whole, reason))
        else:
            kind = left_out.get(path)
            problems.append(Problem("unlisted", whole, f"is left out: {kind}" if kind else "is in no list"))
    return problems
