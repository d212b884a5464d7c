"""What every run scored on every video, of all runs of a sweep in one file, ``scores.npz`` in its folder.

``videonorm fit`` writes a scores.npz into each run folder: ``path`` and ``label`` (N,); ``top1``, ``top5``
and ``loss`` (K, N), nan for a video that could not be read; ``num_frames``, ``frame_stride``, ``num_clips``
and ``num_crops`` (K,), the views of each of K tests, of which the first is the run's own validation. The
sweep's has ``path`` and ``label`` once and, named by the run, its ``top1`` and views: results that are kept
or passed on without their run folders can still be compared video by video.
"""

import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from videonorm.errors import UserError
from videonorm.files import open_new
from videonorm.sweep.cells import Cell
from videonorm.sweep.results import Result

NAME = "scores.npz"
ROUNDING = 1e-3  # of a mean of float32 scores; less than one video of a thousand


class Views(NamedTuple):
    """The clips of each video in one test."""

    num_frames: int
    frame_stride: int
    num_clips: int
    num_crops: int


@dataclass(frozen=True)
class RunScores:
    """The tests of one run; the first is its own validation."""

    tests: tuple[Views, ...]
    top1: NDArray[np.float32]  # (tests, videos), nan where the run did not score a video


@dataclass(frozen=True)
class Scores:
    """Of the runs of a sweep whose scores are there, by name; all on one list of videos."""

    path: NDArray[np.str_]  # (videos,) below the folder that all have in common
    label: NDArray[np.int64]  # (videos,)
    runs: Mapping[str, RunScores]

    def of(self, cell: Cell, test: int = 0) -> NDArray[np.float32] | None:
        """Top-1 (seeds, videos) of the cell's runs in one of their tests; None if a run's are not there."""
        rows = []
        for result in cell.done:
            run = self.runs.get(result.run)
            if run is None or test >= len(run.tests):
                return None
            rows.append(run.top1[test])
        return np.stack(rows) if rows else None


def read_scores(output: Path, results: Iterable[Result]) -> Scores:
    """Scores of the runs that are done: each from its folder or, where that is gone, from the sweep's file.

    Scores whose mean is not the run's top-1 in ``results`` are those of another training, and left out.

    Raises:
        UserError: a scores.npz is damaged, or is not as videonorm writes it.
    """
    gathered = _open(output / NAME)
    videos = _Videos()
    runs: dict[str, tuple[NDArray[np.int64], RunScores]] = {}
    for result in results:
        folder = output / Path(result.run).name
        source = _open(folder / NAME)
        prefix = ""
        if source is None and gathered is not None and f"{result.run}/top1" in gathered.names:
            source, prefix = gathered, f"{result.run}/"
        if source is None or not result.done:
            continue
        found = source.run(prefix)
        if abs(float(np.nanmean(found.top1[0], dtype=np.float64)) - (result.val_top1 or 0.0)) < ROUNDING:
            runs[result.run] = videos.positions(source), found
    path, label = videos.all()
    return Scores(path, label, {name: _placed(of, at, len(path)) for name, (at, of) in runs.items()})


def gather(output: Path, results: Iterable[Result]) -> Scores:
    """Write the sweep's scores.npz, if it does not hold the runs' scores already, and return what it holds.

    Raises:
        UserError: a scores.npz is damaged, or is not as videonorm writes it.
        OSError: it cannot be written.
    """
    scores = read_scores(output, results)
    arrays: dict[str, NDArray[Any]] = {"path": scores.path, "label": scores.label}
    for name, run in scores.runs.items():
        arrays[f"{name}/top1"] = run.top1
        for field, of in zip(Views._fields, np.array(run.tests).T, strict=True):
            arrays[f"{name}/{field}"] = of
    if scores.runs and not _holds(output / NAME, arrays):
        with open_new(output / NAME, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    return scores


def _holds(path: Path, arrays: Mapping[str, NDArray[Any]]) -> bool:
    kept = _open(path)
    return (
        kept is not None
        and kept.names == set(arrays)
        and all(np.array_equal(kept[name], of, equal_nan=of.dtype.kind == "f") for name, of in arrays.items())
    )


class _Archive:
    """An npz file; its arrays are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._arrays = np.load(path, allow_pickle=False)
            self.names = set(self._arrays.files)
        except (ValueError, AttributeError, zipfile.BadZipFile, EOFError) as error:
            raise self._damaged(error) from error

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            array: NDArray[Any] = self._arrays[name]
            return array
        except (KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damaged(error) from error

    def run(self, prefix: str) -> RunScores:
        """The tests of a run, whose arrays begin with ``prefix``."""
        views = [self[prefix + field].tolist() for field in Views._fields]
        top1 = self[f"{prefix}top1"]
        if top1.ndim != 2 or {len(of) for of in views} != {len(top1)} or top1.shape[1] != len(self["path"]):
            raise self._damaged(f"top1 {top1.shape} is not of its tests and videos")
        return RunScores(tuple(Views(*of) for of in zip(*views, strict=True)), top1)

    def same(self, name: str) -> tuple[int, int]:
        """Equal for equal arrays, without reading them."""
        member = self._arrays.zip.getinfo(f"{name}.npy")
        return member.CRC, member.file_size

    def _damaged(self, why: object) -> UserError:
        return UserError(f"scores ({self.path}) must be as videonorm writes them: {why}")


def _open(path: Path) -> _Archive | None:
    return _Archive(path) if path.exists() else None


class _Videos:
    """The videos of all runs, in the order in which they are first seen.

    A path that a manifest names several times, for several segments, is as many videos. Of a path counts what
    stands below the folder that all of a run begin with: on another machine that may be another.
    """

    def __init__(self) -> None:
        self._position: dict[tuple[str, int], int] = {}
        self._label: list[int] = []
        self._known: dict[tuple[int, int], NDArray[np.int64]] = {}  # mostly one list, and the same for all

    def positions(self, source: _Archive) -> NDArray[np.int64]:
        """Where each video of a file stands among all."""
        same = source.same("path")
        if same not in self._known:
            times: dict[str, int] = {}
            at = []
            paths = source["path"].tolist()
            start = os.path.commonprefix(paths).rfind("/") + 1
            for path, label in zip((of[start:] for of in paths), source["label"].tolist(), strict=True):
                times[path] = times.get(path, 0) + 1
                position = self._position.setdefault((path, times[path]), len(self._position))
                if position == len(self._label):
                    self._label.append(label)
                at.append(position)
            self._known[same] = np.array(at, np.int64)
        return self._known[same]

    def all(self) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
        return np.array([path for path, _ in self._position], np.str_), np.array(self._label, np.int64)


def _placed(run: RunScores, positions: NDArray[np.int64], num_videos: int) -> RunScores:
    if np.array_equal(positions, np.arange(num_videos)):
        return run
    top1 = np.full((len(run.tests), num_videos), np.nan, np.float32)
    top1[:, positions] = run.top1
    return RunScores(run.tests, top1)
