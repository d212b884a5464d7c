"""Videos as JPEG frames: one is packed by itself, the shards of a manifest are joined of many."""

import hashlib
import json
import os
import re
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rows import Row, say_bad
from script import printable, unfinished_folder
from video import probe
from workers import Failed, run_all

from videonorm.data import open_video
from videonorm.data.decoding.container import check_file
from videonorm.data.decoding.packed import file_of, join_shards, pack_video, read_about, write_shard
from videonorm.data.decoding.reader import frames_between
from videonorm.errors import UserError
from videonorm.files import new_file

VERSION = 2  # of how frames are read and packed: others are not mixed with these
DIGITS = 8  # of a digest in the names of shards


class Settings(NamedTuple):
    """What the frames depend on, besides their source."""

    short_side: int
    quality: int
    frame_step: int


class Job(NamedTuple):
    """One video to pack, into a shard of its own; many are then joined."""

    source: str
    target: Path
    start_seconds: float | None
    end_seconds: float | None
    settings: Settings


class Packed(NamedTuple):
    """One video that is packed."""

    bytes: int
    source_bytes: int
    seconds: float  # that it took


def pack(job: Job) -> Packed:
    """Pack one video.

    Raises:
        BadVideoError: it cannot be used.
        OSError: the shard cannot be written.
    """
    began = time.monotonic()
    settings = job.settings
    with open_video(job.source) as video:
        stretch = frames_between(job.source, video.seconds, job.start_seconds, job.end_seconds)
        packed = pack_video(video, *stretch, **settings._asdict())
    write_shard(job.target, [packed], short_side=settings.short_side)
    source_bytes = check_file(file_of(job.source)).size
    return Packed(os.path.getsize(job.target), source_bytes, time.monotonic() - began)


class Shard(NamedTuple):
    """A shard that is there."""

    path: Path
    first: int  # rows of the manifest, from first to stop - 1
    stop: int
    bad: dict[int, str]  # row -> reason


class Packing:
    """The shards of one manifest, ``OUT/shards/NAME-DIGEST-00000.safetensors`` and so on.

    The digest is of all that the frames depend on: other packings never share the name of a shard.
    """

    def __init__(self, name: str, rows: list[Row], settings: Settings, out: Path) -> None:
        self.name = name
        self.rows = rows
        self.settings = settings
        self.out = out
        digest = hashlib.sha256(json.dumps([VERSION, *settings]).encode())
        for row in rows:
            try:
                status = os.stat(row.path)
                stamp = [status.st_size, status.st_mtime_ns]
            except (OSError, ValueError):
                stamp = []  # missing, or behind a URL
            digest.update(json.dumps([row.path, row.start_seconds, row.end_seconds, stamp]).encode())
        self.digest = digest.hexdigest()[:DIGITS]

    def path(self, number: int) -> Path:
        return self.out / "shards" / f"{self.name}-{self.digest}-{number:05d}.safetensors"

    def shards(self) -> list[Shard]:
        """Those that are there."""
        found: list[Shard] = []
        while (path := self.path(len(found))).exists():
            about = read_about(path)
            bad = {int(row): reason for row, reason in about["bad"].items()}
            first, stop = about["rows"]
            found.append(Shard(path, first, stop, bad))
        return found

    def job(self, row: int, target: Path) -> Job:
        of = self.rows[row]
        return Job(of.path, target, of.start_seconds, of.end_seconds, self.settings)

    def refuse_others(self) -> None:
        """Raise UserError if there are shards of that name with other frames."""
        name = re.escape(self.name)
        others = re.compile(rf"{name}-(?!{self.digest}-)[0-9a-f]{{{DIGITS}}}-\d{{5,}}\.safetensors")
        folder = self.out / "shards"
        found = sorted(os.listdir(folder)) if folder.is_dir() else []
        if other := next(filter(others.fullmatch, found), None):
            raise UserError(
                f"--out ({printable(self.out)}) must not hold {self.name} packed in another way, of other "
                f"files or with other settings, as shards/{printable(other)} is"
            )

    def make(self, options: Namespace) -> None:
        """Make the shards that are not there: pack each video, and join those that follow on each other.

        Raises:
            OSError: they cannot be written.
        """
        with unfinished_folder(self.out, f"{self.name}-{self.digest}") as unfinished:
            shards = _NewShards(self, unfinished, options.shard_mib * 2**20)
            shards.join()
            left = shards.left()
            jobs = [self.job(row, shards.part(row)) for row in left]
            title = f"Packing {self.name} to {self.out}"
            for position, result in run_all(pack, jobs, title, options):
                if isinstance(result, Failed):
                    say_bad(jobs[position].source, result.reason)
                shards.outcomes[left[position]] = (
                    result.reason if isinstance(result, Failed) else result.bytes
                )
                shards.join()

    def cells(self, shard: Shard) -> Iterator[dict[str, str]]:
        """The rows of the videos of a shard."""
        good = (row for row in range(shard.first, shard.stop) if row not in shard.bad)
        for number, row in enumerate(good):
            path, cells = shard.path / str(number), self.rows[row].cells
            bounds = {
                f"source_{name}": cells[name] for name in ("start_seconds", "end_seconds") if name in cells
            }
            yield {
                **{name: cell for name, cell in cells.items() if f"source_{name}" not in bounds},
                **probe(str(path)).cells(),
                "path": os.path.relpath(path, self.out),
                "source": cells["path"],
                **bounds,
            }


class _NewShards:
    """The shards that a manifest still lacks, and the parts that they are joined of."""

    def __init__(self, packing: Packing, unfinished: Path, shard_bytes: int) -> None:
        self._packing = packing
        self._unfinished = unfinished
        self._shard_bytes = shard_bytes
        shards = packing.shards()
        self._number, self._first = len(shards), shards[-1].stop if shards else 0
        self.outcomes: dict[int, int | str] = {  # row -> bytes of its part, or why it is bad
            row: self.part(row).stat().st_size
            for row in range(self._first, len(packing.rows))
            if self.part(row).exists()
        }

    def part(self, row: int) -> Path:
        return self._unfinished / f"{row}.safetensors"

    def left(self) -> list[int]:
        """Rows that are neither in a shard nor packed."""
        return [row for row in range(self._first, len(self._packing.rows)) if row not in self.outcomes]

    def join(self) -> None:
        """Make the shards whose videos are all there; in their order, so that any run makes the same."""
        count = len(self._packing.rows)
        while True:
            size, stop = 0, self._first
            while stop in self.outcomes and size < self._shard_bytes:
                outcome = self.outcomes[stop]
                size += outcome if isinstance(outcome, int) else 0
                stop += 1
            if stop == self._first or (stop < count and size < self._shard_bytes):
                return
            done = {row: self.outcomes.pop(row) for row in range(self._first, stop)}
            bad = {row: outcome for row, outcome in done.items() if isinstance(outcome, str)}
            parts = [self.part(row) for row in done if row not in bad]
            settings = self._packing.settings
            about = {"rows": [self._first, stop], "bad": bad, **settings._asdict()}
            with new_file(self._packing.path(self._number), self._unfinished) as aside:
                join_shards(aside, parts, about=about, short_side=settings.short_side)
            for part in parts:
                part.unlink()
            self._number, self._first = self._number + 1, stop
