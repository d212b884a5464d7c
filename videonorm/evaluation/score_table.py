"""The scores of single videos as a table, as `videonorm fit` writes them: ``scores.npz``.

``path`` and ``label`` (N,), ``top1``, ``top5`` and ``loss`` (1, N), nan for a video that could not be read,
and the views: ``num_frames``, ``frame_stride``, ``num_clips``, ``num_crops`` (1,). An evaluation's has the
stretch of each video besides, ``start_seconds`` and ``end_seconds`` (N,), nan for no bound, and
``probabilities`` (N, K).
"""

import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videonorm.data import Manifest
from videonorm.data.decoding.location import without_credentials
from videonorm.errors import UserError
from videonorm.evaluation.scores import VideoScores
from videonorm.files import open_new
from videonorm.messages import one_line

TABLES = (".npz", ".json")  # files that hold scores of an earlier evaluation


def write_scores(path: Path, manifest: Manifest, scores: VideoScores, views: Mapping[str, Any]) -> None:
    """Write the table of an evaluation; ``views`` has num_frames, frame_stride, num_clips and num_crops."""
    entries = manifest.entries
    stretches = [[entry.start_seconds, entry.end_seconds] for entry in entries]
    start, end = np.array(stretches, np.float64).T  # None is nan

    def of_videos(values: torch.Tensor) -> NDArray[np.float32]:
        known: NDArray[np.float32] = values.masked_fill(~scores.scored, torch.nan).float().numpy()
        return known[None]

    arrays: dict[str, Any] = {
        "path": np.array([without_credentials(entry.path) for entry in entries], np.str_),
        "label": entries.labels,
        "start_seconds": start,
        "end_seconds": end,
        **{
            name: np.array([views[name] or 0], np.int64)
            for name in ("num_frames", "frame_stride", "num_clips", "num_crops")
        },
        "top1": of_videos(scores.within(1)),
        "top5": of_videos(scores.within(5)),
        "loss": of_videos(scores.loss),
        "probabilities": scores.probabilities.masked_fill(~scores.scored[:, None], torch.nan).numpy(),
    }
    with open_new(path, "wb") as file:
        np.savez_compressed(file, **arrays)


@dataclass(frozen=True)
class Top1:
    """The top-1 of single videos in one test, in [0, 1]; those without a score are left out."""

    paths: Sequence[str]
    labels: Sequence[int]
    top1: Sequence[float]
    names: Sequence[str]  # with the stretch of the video, where there is one

    @classmethod
    def of(cls, manifest: Manifest, scores: VideoScores) -> "Top1":
        return _top1(
            (without_credentials(entry.path), entry.label, top1, (entry.start_seconds, entry.end_seconds))
            for entry, top1, scored in zip(
                manifest.entries, scores.within(1).tolist(), scores.scored.tolist(), strict=True
            )
            if scored
        )

    def keys(self, below: bool) -> list[tuple[str, int]]:
        """What tells the videos apart: path and, of a path that is there several times, which time it is.

        Args:
            below: take of a path what stands below the folder that all have in common.
        """
        times: dict[str, int] = {}
        keys = []
        start = os.path.commonprefix([*self.paths]).rfind("/") + 1 if below else 0
        for path in self.paths:
            times[path] = times.get(path, 0) + 1
            keys.append((path[start:], times[path]))
        return keys


def read_top1(path: Path) -> Top1:
    """The scores that an evaluation, or a training, has written: a scores table or an evaluation's JSON.

    Raises:
        UserError: the file cannot be read, or holds no such scores.
    """
    read = _of_json if path.suffix == ".json" else _of_table
    try:
        found = _top1(read(path))
    except OSError as error:
        raise UserError(f"compare ({path}) must be a file that can be read ({error.strerror})") from error
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
    ) as error:
        raise UserError(
            f"compare ({path}) must hold the scores of an evaluation, as videonorm writes them "
            f"({one_line(error)})"
        ) from error
    if not found.paths:
        raise UserError(f"compare ({path}) must hold the score of at least one video")
    return found


Row = tuple[str, int, float, tuple[float | None, float | None]]


def _of_table(path: Path) -> Iterable[Row]:
    with np.load(path, allow_pickle=False) as arrays:
        paths, labels, top1 = arrays["path"].tolist(), arrays["label"].tolist(), arrays["top1"][0].tolist()
        seconds = [
            arrays[name].tolist() if name in arrays else [np.nan] * len(paths)
            for name in ("start_seconds", "end_seconds")
        ]
    for video, label, right, start, end in zip(paths, labels, top1, *seconds, strict=True):
        if not np.isnan(right):
            yield video, label, right, (None if np.isnan(start) else start, None if np.isnan(end) else end)


def _of_json(path: Path) -> Iterable[Row]:
    for video in json.loads(path.read_text(encoding="utf-8"))["videos"]:
        best = max(video["top5"].values())
        first = [int(label) for label, score in video["top5"].items() if score == best]  # in random order
        right = 1 / len(first) if video["label"] in first else 0.0
        yield video["path"], video["label"], right, (video.get("start_seconds"), video.get("end_seconds"))


def _top1(rows: Iterable[Row]) -> Top1:
    paths, labels, top1, names = [], [], [], []
    for path, label, right, (start, end) in rows:
        paths.append(path)
        labels.append(int(label))
        top1.append(float(right))
        stretch = "" if start is None and end is None else f" ({start or 0:g} to {end or np.inf:g} s)"
        names.append(f"{path}{stretch}")
    return Top1(paths, labels, top1, names)
