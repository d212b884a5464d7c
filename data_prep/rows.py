"""The rows of manifests with all their columns, and what a look into a file adds to them."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from videonorm.data import open_video, read_manifest
from videonorm.data.decoding.packet_index import packet_index
from videonorm.data.manifest import parse_seconds
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


def read_rows(path: Path, root: Path | None = None) -> list[Row]:
    """Read a manifest: a CSV with a header, or what else ``read_manifest`` takes.

    A CSV may have no labels, as the test lists of some data sets; they are for training to check.

    Raises:
        UserError: one sentence, with the line number where there is one.
    """
    if not path.exists():
        raise UserError(f"manifest ({path}) must be a file or folder that exists")
    rows = [] if path.is_dir() else _csv_rows(path, base_of(path, root))
    if not rows:
        manifest = read_manifest(path, root)
        names = manifest.class_names
        for entry in manifest.entries:
            cells = {"path": entry.path, "label": str(entry.label)}
            if names is not None:
                cells["class_name"] = names[entry.label]
            rows.append(Row(entry.path, entry.start_seconds, entry.end_seconds, cells))
    if not any(os.path.lexists(row.path) for row in rows[:10]):
        raise UserError(
            f"root ({base_of(path, root)}) must be where the paths in {path} start: no {rows[0].path}"
        )
    return rows


def base_of(manifest: Path, root: Path | None) -> Path:
    """The folder that relative paths of a manifest start from."""
    return (manifest if manifest.is_dir() else root or manifest.parent).absolute()


def _csv_rows(path: Path, base: Path) -> list[Row]:
    """The rows of a CSV file with a header; none for a list without."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"manifest ({path}) must be readable: {error.strerror}") from None
    # Not splitlines, which takes more characters for line ends than CSV does.
    table = csv.reader((f"{line}\n" for line in text.split("\n")), skipinitialspace=True)
    columns: list[str] = []
    rows: list[Row] = []
    try:
        for cells in table:
            where = f"{path} line {table.line_num}"
            if not cells:
                continue
            if not columns:
                columns = [name.strip() for name in cells]
                if "path" not in columns:
                    return []
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{where}: the number of cells ({len(cells)}) must be that of the header ({len(columns)})"
                )
            row = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
            if not row["path"]:
                raise UserError(f"{where}: path () must not be empty")
            start, end = (
                parse_seconds(where, name, row.get(name, "")) for name in ("start_seconds", "end_seconds")
            )
            if end is not None and end <= (start or 0.0):
                raise UserError(
                    f"{where}: end_seconds ({end:g}) must be after start_seconds ({start or 0.0:g})"
                )
            rows.append(Row(os.path.join(base, row["path"]), start, end, row))
    except csv.Error as error:
        raise UserError(f"{path} line {table.line_num}: the line must be readable as CSV: {error}") from None
    if columns and not rows:
        raise UserError(f"manifest ({path}) must list at least one video")
    return rows


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
        return Facts(duration, rate, video.num_frames, width, height, packet_index(path).codec)
