"""The rows of manifests with all their columns, and what a look into a file adds to them."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from videonorm.data import open_video, read_manifest
from videonorm.data.decoding.index_store import packet_index
from videonorm.data.manifest import (
    check_root,
    csv_rows,
    delimiter_of,
    joiner,
    read_lines,
    seconds_of,
)
from videonorm.errors import UserError


class Row(NamedTuple):
    """One video of a manifest."""

    path: str  # absolute
    start_seconds: float | None
    end_seconds: float | None
    cells: dict[str, str]  # as written, by column


class Facts(NamedTuple):
    """What a file holds, under the names of a manifest's columns."""

    duration_seconds: float
    fps: float  # mean; 0 for a single frame
    frames: int
    width: int  # pixels of the upright picture
    height: int
    codec: str

    def cells(self) -> dict[str, str]:
        rounded = (round(value, 4) if isinstance(value, float) else value for value in self)
        return {name: str(value) for name, value in zip(self._fields, rounded, strict=True)}


def read_rows(path: Path, root: str | Path | None = None) -> list[Row]:
    """Read a manifest: a CSV with a header, or what else ``read_manifest`` takes.

    A CSV may have no labels, as the test lists of some data sets; they are for training to check.

    Raises:
        UserError: one sentence, with the line number where there is one.
    """
    if not path.exists():
        raise UserError(f"manifest ({path}) must be a file or folder that exists")
    lines = [] if path.is_dir() else read_lines(path)
    delimiter = delimiter_of(path, lines)
    rows: list[Row] = []
    if delimiter is None:
        manifest = read_manifest(path, root, labels_required=False)
        names = manifest.class_names
        for entry in manifest.entries:
            cells = {"path": entry.path, "label": str(entry.label) if manifest.labelled else ""}
            if names is not None and manifest.labelled:
                cells["class_name"] = names[entry.label]
            rows.append(Row(entry.path, entry.start_seconds, entry.end_seconds, cells))
        return rows
    join = joiner(path, root)
    for where, cells in csv_rows(path, lines, delimiter, ["path"]):
        bounds = seconds_of(where, cells.get("start_seconds", ""), cells.get("end_seconds", ""))
        rows.append(Row(join(cells["path"]), *bounds, cells))
    if not rows:
        raise UserError(f"manifest ({path}) must list at least one video")
    check_root(path, root, [row.path for row in rows[:10]])
    return rows


def class_index(manifests: Sequence[Path]) -> bytes | None:
    """What ``classes.txt`` beside the manifests holds, which a manifest of new files needs too.

    Raises:
        UserError: it is not the same beside all that have one.
    """
    files = [path.with_name("classes.txt") for path in manifests if not path.is_dir()]
    contents = {file.read_bytes(): file for file in files if file.is_file()}
    if len(contents) > 1:
        first, second = list(contents.values())[:2]
        raise UserError(f"manifests must be of the same classes: {first} and {second} differ")
    return next(iter(contents), None)


def write_class_index(out: Path, classes: bytes | None) -> None:
    """Write what ``class_index`` found to a folder, aside and then renamed."""
    if classes is not None:
        unfinished = out / f".classes.txt.{os.getpid()}"
        unfinished.write_bytes(classes)
        unfinished.replace(out / "classes.txt")


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows to a CSV file, aside and then renamed; columns in the order in which they first come up."""
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["path", "label"]
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with open(unfinished, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(unfinished, path)


def probe(path: str) -> Facts:
    """Open a file, read its packets and decode its first frame.

    Raises:
        BadVideoError: it cannot be used.
    """
    with open_video(path, "pyav") as video:
        height, width = video.read([0]).shape[1:3]
        rate = video.frame_rate
        duration = float(video.seconds[-1]) + (1 / rate if rate else 0.0)
        return Facts(duration, rate, video.num_frames, width, height, packet_index(path).format.codec)
