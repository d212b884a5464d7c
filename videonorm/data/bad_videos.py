"""The videos that could not be used: counted, named with the reason, and an error once they are too many."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from videonorm.data.decoding.location import without_credentials
from videonorm.errors import UserError
from videonorm.files import open_new


class BadVideo(NamedTuple):
    """A video that could not be used; ``reason`` completes the sentence "the video ..."."""

    path: str
    reason: str


class BadVideos:
    """Bad videos by split, each path once, with the first reason seen."""

    def __init__(self) -> None:
        self._reasons: dict[str, dict[str, str]] = {}  # split -> path -> reason

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

    def write(self, path: str | Path) -> None:
        """Write all to a CSV file with the columns path, reason, split; what it has of other splits stays."""
        others: list[list[str]] = []
        if Path(path).exists():
            with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
                others = [row for row in csv.reader(file) if row[2:] and row[2] not in self._reasons][1:]
        with open_new(path) as file:
            writer = csv.writer(file)
            writer.writerow(["path", "reason", "split"])
            writer.writerows(others)
            for split, reasons in self._reasons.items():
                writer.writerows([video, reason, split] for video, reason in reasons.items())
