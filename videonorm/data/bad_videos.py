"""The videos that could not be used: counted, named with the reason, and an error once they are too many."""

import csv
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from videonorm.data.decoding.location import without_credentials
from videonorm.errors import UserError
from videonorm.files import open_new, to_cell
from videonorm.messages import some_of


class BadVideo(NamedTuple):
    """A video that could not be used; ``reason`` completes the sentence "the video ..."."""

    path: str
    reason: str


class BadVideos:
    """Bad videos by split, each path once, with the first reason seen."""

    def __init__(self) -> None:
        self._reasons: dict[str, dict[str, str]] = {}  # split -> path -> reason, in the order they were met
        self._told: dict[str, int] = {}  # split -> how many of them are told

    def add(self, split: str, videos: Iterable[BadVideo]) -> bool:
        """Note bad videos; returns whether any of them is new."""
        reasons = self._reasons.setdefault(split, {})
        before = len(reasons)
        for video in videos:
            reasons.setdefault(without_credentials(video.path), video.reason)
        return len(reasons) > before

    def count(self, split: str) -> int:
        return len(self._reasons.get(split, {}))

    def __len__(self) -> int:
        return sum(len(reasons) for reasons in self._reasons.values())

    def check(self, split: str, num_videos: int, max_bad_fraction: float) -> None:
        """Raise UserError, naming the first ten, if more than ``max_bad_fraction`` of a split is bad."""
        reasons = self._reasons.get(split, {})
        if len(reasons) <= max_bad_fraction * num_videos:
            return
        first = "; ".join(f"{path} {reason}" for path, reason in list(reasons.items())[:10])
        raise UserError(
            f"max_bad_fraction ({max_bad_fraction:g}) must cover the {split} videos that cannot be used, "
            f"which are {len(reasons)} of {num_videos}: {first}"
        )

    def warn_of_new(self, split: str) -> None:
        """Say which videos of a split are bad, each once: how many since the last time, and the first."""
        new = list(self._reasons.get(split, {}).items())[self._told.get(split, 0) :]
        self._told[split] = self.count(split)
        if new:
            became = "others take their places" if split == "train" else "they have no scores"
            listed = some_of([f"{path} {reason}" for path, reason in new], 3)
            warnings.warn(
                f"{split} videos that cannot be used: {len(new):,}, and {became}: {listed}", stacklevel=2
            )

    def write(self, path: str | Path) -> None:
        """Write all to a CSV file with the columns path, reason, split, by split and path.

        What it has of other splits stays.
        """
        others: list[list[str]] = []
        if Path(path).exists():
            with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
                others = [row for row in csv.reader(file) if row[2:] and row[2] not in self._reasons][1:]
        with open_new(path) as file:
            writer = csv.writer(file)
            writer.writerow(["path", "reason", "split"])
            writer.writerows(others)
            # Not as they were met, which depends on the pace of the processes that read them.
            for split, reasons in sorted(self._reasons.items()):
                rows = ((video, reason, split) for video, reason in sorted(reasons.items()))
                writer.writerows(map(to_cell, row) for row in rows)
