"""Which videos, with which labels: from CSV files, space-separated lists and folder-per-class trees."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from videonorm.errors import UserError

Split = Literal["train", "val", "test"]

VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
)


class Entry(NamedTuple):
    """One video, or one stretch of it where the seconds are given."""

    path: str  # absolute
    label: int
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True)
class Manifest:
    """The videos of one split."""

    path: Path
    entries: list[Entry]
    num_classes: int
    class_names: list[str] | None = None  # by label; None where the manifest has bare numbers


class _Row(NamedTuple):
    """An entry as written."""

    where: str  # "train.csv line 3", for messages
    path: str
    label: str
    start_seconds: str
    end_seconds: str


def read_manifest(
    path: str | Path,
    root: str | Path | None = None,
    *,
    split: Split | None = None,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> Manifest:
    """Read a manifest.

    Args:
        path: one of

            - a CSV file with a header that names the columns ``path`` and ``label``, and perhaps
              ``start_seconds`` and ``end_seconds`` (an empty cell is no bound) and ``split``; others are
              passed over;
            - a list with ``path label`` on each line; the path may hold blanks, the label may not;
            - a folder with one folder of videos for each class.

            A label is a number from 0 or the name of a class.
        root: folder that relative paths start from; by default that of the manifest.
        split: take only the rows of this split where the CSV has the column ``split``.
        class_names: names by label, so that all splits share one order; by default the names found, in
            alphabetical order (which is the published order of Kinetics).
        num_classes: bound for labels that are numbers; by default the number of names or the largest label +
            1.

    Raises:
        UserError: one sentence, with the line number where there is one.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"manifest ({path}) must be a file or folder that exists")
    if path.is_dir():
        if class_names is None:
            class_names = sorted(folder.name for folder in _folders(path))
        rows = list(_tree_rows(path))
    else:
        lines = _read_lines(path)
        rows = list(_csv_rows(path, lines, split) if _is_csv(path, lines) else _list_rows(path, lines))
    if not rows and path.is_dir():
        raise UserError(f"manifest ({path}) must hold a folder with videos for each class, or be a file")
    if not rows:
        raise UserError(
            f"manifest ({path}) must list at least one video{f' of split {split}' if split else ''}"
        )

    if class_names is None and not any(_is_number(row.label) for row in rows):
        class_names = sorted({row.label for row in rows})
    names = list(class_names) if class_names is not None else None
    if names is not None:
        num_classes = len(names)
    label_of = {name: label for label, name in enumerate(names or [])}

    base = (path if path.is_dir() else Path(root or path.parent)).absolute()
    entries: list[Entry] = []
    seen: dict[tuple[str, float | None, float | None], str] = {}
    for row in rows:
        if row.label in label_of:  # before numbers: a folder may be called "100"
            label = label_of[row.label]
        elif _is_number(row.label):
            label = int(row.label)
            if label < 0 or (num_classes is not None and label >= num_classes):
                bound = f"below {num_classes}, the number of classes" if label >= 0 else "0 or more"
                raise UserError(f"{row.where}: label ({label}) must be {bound}")
        elif names is None:
            raise UserError(
                f"{row.where}: label ({row.label}) must be a number, as others in this manifest are"
            )
        else:
            raise UserError(f"{row.where}: label ({row.label}) must be one of the {len(names)} class names")
        start = parse_seconds(row.where, "start_seconds", row.start_seconds)
        end = parse_seconds(row.where, "end_seconds", row.end_seconds)
        if end is not None and end <= (start or 0.0):
            raise UserError(
                f"{row.where}: end_seconds ({end:g}) must be after start_seconds ({start or 0.0:g})"
            )
        entry = Entry(os.path.join(base, row.path), label, start, end)
        key = (entry.path, start, end)
        if key in seen:
            raise UserError(f"{row.where}: path ({row.path}) must be listed once, and is on {seen[key]} too")
        seen[key] = row.where
        entries.append(entry)

    if not any(os.path.lexists(entry.path) for entry in entries[:10]):
        raise UserError(
            f"root ({base}) must be where the paths in {path} start: there is no {entries[0].path}"
        )
    if num_classes is None:
        num_classes = max(entry.label for entry in entries) + 1
    return Manifest(path, entries, num_classes, names)


def _read_lines(path: Path) -> list[str]:
    try:
        # A name may hold any byte; a byte order mark is no part of the first word.
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"manifest ({path}) must be readable: {error.strerror}") from None
    return text.split("\n")  # universal newlines have turned \r\n into \n


def _is_csv(path: Path, lines: list[str]) -> bool:
    first = next((line for line in lines if line.strip()), "")
    if {"path", "label"} & set(_header(first)):
        return True
    # PySlowFast calls its space-separated lists train.csv.
    return "," in first and not _is_number(first.split()[-1])


def _header(line: str) -> list[str]:
    return [name.strip().strip('"') for name in line.split(",")]


def _csv_rows(path: Path, lines: list[str], split: Split | None) -> Iterator[_Row]:
    table = csv.reader((f"{line}\n" for line in lines), skipinitialspace=True)
    columns: list[str] = []
    try:
        for cells in table:
            where = f"{path} line {table.line_num}"
            if not cells:
                continue
            if not columns:
                columns = [name.strip() for name in cells]
                for name in ("path", "label"):
                    if name not in columns:
                        raise UserError(
                            f"{where}: the header ({','.join(columns)}) must name the column {name}"
                        )
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{where}: the number of cells ({len(cells)}) must be that of the header ({len(columns)})"
                )
            row = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
            for name in ("path", "label"):
                if not row[name]:
                    raise UserError(f"{where}: {name} () must not be empty")
            if split is None or row.get("split", split) == split:
                seconds = row.get("start_seconds", ""), row.get("end_seconds", "")
                yield _Row(where, row["path"], row["label"], *seconds)
    except csv.Error as error:
        raise UserError(f"{path} line {table.line_num}: the line must be readable as CSV: {error}") from None


def _list_rows(path: Path, lines: list[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        video, blank, label = line.strip().replace("\t", " ").rpartition(" ")
        video = video.strip()
        if not blank:
            raise UserError(f"{where}: the line ({line.strip()}) must be a path, a blank and a label")
        if video.endswith(","):
            raise UserError(
                f"{where}: the separator (comma) must be a blank, or the file must open with path,label"
            )
        yield _Row(where, video, label, "", "")


def _tree_rows(path: Path) -> Iterator[_Row]:
    for folder in _folders(path):
        for video in sorted(folder.iterdir()):
            if video.suffix.lower() in VIDEO_SUFFIXES and not video.name.startswith("."):
                yield _Row(f"{folder}", f"{folder.name}/{video.name}", folder.name, "", "")


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def parse_seconds(where: str, name: str, text: str) -> float | None:
    """A cell of a manifest: seconds, or None where it is empty. A UserError names `where` and `name`."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{where}: {name} ({text}) must be a number of seconds, 0 or more")
    return value
