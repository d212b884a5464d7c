"""Which videos, with which labels: from CSV files, space-separated lists and folder-per-class trees."""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

import numpy as np

from videonorm.data.decoding.location import is_remote, without_credentials
from videonorm.data.entries import UNLABELLED, Entries
from videonorm.errors import UserError

Split = Literal["train", "val", "test"]

VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
)


@dataclass(frozen=True)
class Manifest:
    """The videos of one split."""

    path: Path
    entries: Entries
    num_classes: int  # 0 where nothing tells
    class_names: list[str] | None = None  # by label; None where the manifest has bare numbers

    @property
    def labelled(self) -> bool:
        return bool(self.entries.labels[0] != UNLABELLED)  # all of them have labels, or none

    @property
    def largest_label(self) -> int:
        return int(self.entries.labels.max())


class _Row(NamedTuple):
    """An entry as written."""

    where: str  # "train.csv line 3", for messages
    path: str
    label: str
    class_name: str = ""
    start_seconds: str = ""
    end_seconds: str = ""


def read_manifest(
    path: str | Path,
    root: str | Path | None = None,
    *,
    split: Split | None = None,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    labels_required: bool = True,
) -> Manifest:
    """Read a manifest.

    Args:
        path: one of

            - a CSV file with a header that names the columns ``path`` and ``label``, and perhaps
              ``start_seconds`` and ``end_seconds`` (an empty cell is no bound), ``split`` and ``class_name``
              (of a label that is a number); others are passed over. Tabs or semicolons may stand for commas;
            - a list with ``path label`` on each line; the path may hold blanks, the label may not;
            - a folder with one folder of videos for each class.

            A label is a number from 0 or the name of a class. A path may be a URL: see ``is_remote``.
        root: folder or URL that relative paths start from; by default the folder of the manifest.
        split: take only the rows of this split where the CSV has the column ``split``.
        class_names: names by label, so that all splits share one order. By default, where labels are names,
            those found in alphabetical order (which is the published order of Kinetics); where the CSV has
            the column ``class_name``, those of ``classes.txt`` beside it, which
            ``data_prep/make_manifest.py`` writes, or else of its rows, a label that has none being named by
            its number.
        num_classes: bound for labels that are numbers; by default the number of names or the largest label +
            1.
        labels_required: False also takes a list of videos without any labels: a CSV whose column ``label`` is
            empty or not there, paths alone on their lines, or a folder of videos.

    Raises:
        UserError: one sentence, with the line number where there is one.
    """
    if is_remote(str(path)):
        raise UserError(f"manifest ({without_credentials(str(path))}) must be a local file or folder")
    path = Path(path)
    if not path.exists():
        raise UserError(f"manifest ({path}) must be a file or folder that exists")
    named = False  # it has the column class_name
    if path.is_dir():
        folders = _folders(path)
        rows = [
            _Row(str(folder), f"{folder.name}/{video.name}", folder.name)
            for folder in folders
            for video in _videos(folder)
        ]
        if rows and class_names is None:
            class_names = sorted(folder.name for folder in folders)
        if not rows and not labels_required:
            rows = [_Row(str(path), video.name, "") for video in _videos(path)]
        if not rows:
            raise UserError(f"manifest ({path}) must hold a folder with videos for each class, or be a file")
    else:
        lines = read_lines(path)
        delimiter = delimiter_of(path, lines)
        if delimiter is None:
            rows = list(_list_rows(path, lines))
        else:
            needed = ("path", "label") if labels_required else ("path",)
            rows = []
            for where, cells in csv_rows(path, lines, delimiter, needed):
                named = "class_name" in cells
                if split is None or cells.get("split", split) == split:
                    rows.append(_Row(where, *map(cells.get, _Row._fields[1:], repeat(""))))
        if not rows:
            of_split = f" of split {split}" if split else ""
            raise UserError(f"manifest ({path}) must list at least one video{of_split}")

    first: dict[tuple[str, str], _Row] = {}  # of those with the same label, to which the same applies
    for row in rows:
        first.setdefault((row.label, row.class_name), row)
    kinds = list(first.values())
    if not path.is_dir():
        _check_labels(path, kinds, labels_required, is_list=delimiter is None)
    names = list(class_names) if class_names is not None else None
    numbers = {_number(row.label) for row in kinds if row.label}
    if names is None and named and None not in numbers:
        names = _names_of_rows(path, kinds)
    elif names is None and numbers == {None}:
        names = sorted({row.label for row in kinds})
    if names is not None:
        num_classes = len(names)
    label_of = {name: label for label, name in enumerate(names or [])}
    labels = {kind: _label(row, label_of, names, num_classes) for kind, row in first.items()}
    if num_classes is None:
        num_classes = max(labels.values()) + 1

    paths = list(map(joiner(path, root), (row.path for row in rows)))
    bounds = [seconds_of(row.where, row.start_seconds, row.end_seconds) for row in rows]
    _check_once(rows, paths, bounds)
    check_root(path, root, paths[:10])
    entries = Entries(
        paths, [labels[row.label, row.class_name] for row in rows], np.array(bounds, dtype=np.float64)
    )
    return Manifest(path, entries, num_classes, names)


def _check_once(rows: list[_Row], paths: list[str], bounds: list[tuple[float | None, float | None]]) -> None:
    """Raise UserError for a video, or a stretch of one, that is listed twice."""
    seen: dict[tuple[str, tuple[float | None, float | None]], _Row] = {}
    for row, path, stretch in zip(rows, paths, bounds, strict=True):
        if "/." in path or "//" in path[1:]:
            path = os.path.normpath(path)
        first = seen.setdefault((path, stretch), row)
        if first is not row:
            shown = without_credentials(row.path)
            raise UserError(f"{row.where}: path ({shown}) must be listed once, and is on {first.where} too")


def _check_labels(path: Path, rows: list[_Row], required: bool, is_list: bool) -> None:
    """Raise UserError for a row without a label, unless no row has one and none is required."""
    without = next((row for row in rows if not row.label), None)
    if without is None or (not required and not any(row.label for row in rows)):
        return
    if not any(row.label for row in rows):
        raise UserError(f"manifest ({path}) must have labels; only videonorm predict takes one without any")
    if is_list:
        line = without_credentials(without.path)
        raise UserError(f"{without.where}: the line ({line}) must be a path, a blank and a label")
    raise UserError(f"{without.where}: label () must not be empty")


def _names_of_rows(path: Path, rows: list[_Row]) -> list[str] | None:
    """Class names by label from the column class_name, and classes.txt where that is beside the manifest."""
    first: dict[int, _Row] = {}  # row that named a label
    labels: dict[str, int] = {}
    for row in rows:
        label, name = _number(row.label), row.class_name
        if label is None or not name:
            continue
        other = first.setdefault(label, row)
        if other.class_name != name:
            raise UserError(
                f"{row.where}: class_name ({name}) must be {other.class_name}, "
                f"as label {label} has on {other.where}"
            )
        if (known := labels.setdefault(name, label)) != label:
            where = first[known].where
            raise UserError(
                f"{row.where}: label ({label}) must be {known}, as class_name {name} has on {where}"
            )
    index = path.with_name("classes.txt")
    if index.is_file():
        listed = [line.strip() for line in read_lines(index)]
        while listed and not listed[-1]:
            listed.pop()
        for label, row in first.items():
            if listed[label : label + 1] != [row.class_name]:
                raise UserError(
                    f"{row.where}: class_name ({row.class_name}) must be on line {label + 1} of {index}"
                )
        return listed
    names = {label: row.class_name for label, row in first.items()}
    num_classes = max(_number(row.label) or 0 for row in rows) + 1
    return [names.get(label, str(label)) for label in range(num_classes)] if names else None


def _label(row: _Row, label_of: dict[str, int], names: list[str] | None, num_classes: int | None) -> int:
    label = _number(row.label)
    if not row.label:
        return UNLABELLED
    if row.label in label_of and (label is None or not row.class_name):  # a folder may be called "100"
        return label_of[row.label]
    if label is None:
        if names is None:
            raise UserError(
                f"{row.where}: label ({row.label}) must be a number, as others in this manifest are"
            )
        raise UserError(f"{row.where}: label ({row.label}) must be one of the {len(names)} class names")
    if label < 0 or (num_classes is not None and label >= num_classes):
        bound = f"below {num_classes}, the number of classes" if label >= 0 else "0 or more"
        raise UserError(f"{row.where}: label ({label}) must be {bound}")
    if row.class_name and names is not None and names[label] not in (row.class_name, str(label)):
        raise UserError(
            f"{row.where}: class_name ({row.class_name}) must be {names[label]}, which is class {label}"
        )
    return label


def joiner(path: Path, root: str | Path | None) -> Callable[[str], str]:
    """What makes a path in a manifest absolute."""
    base = base_of(path, root)
    remote, quoted = is_remote(base), base.startswith(("http://", "https://"))
    prefix = os.path.join(base, "")

    def join(cell: str) -> str:
        if ("://" in cell and is_remote(cell)) or (cell.startswith("/") and not remote):
            return cell
        return prefix + (quote(cell, errors="surrogateescape") if quoted else cell)

    return join


def base_of(path: Path, root: str | Path | None) -> str:
    """The folder, or URL without its last slash, that relative paths of a manifest start from."""
    if root is not None and is_remote(str(root)):
        return str(root).rstrip("/")
    return str((path if path.is_dir() else Path(root or path.parent)).absolute())


def check_root(path: Path, root: str | Path | None, paths: Sequence[str]) -> None:
    """Raise UserError if none of some paths of a manifest is there; URLs are taken to be."""
    for video in paths:
        # The file itself, or one that it is packed in.
        if is_remote(video) or os.path.lexists(video) or any(p.is_file() for p in Path(video).parents):
            return
    raise UserError(
        f"root ({base_of(path, root)}) must be where the paths in {path} start: there is no {paths[0]}"
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a text file."""
    try:
        # A name may hold any byte; a byte order mark is no part of the first word.
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"manifest ({path}) must be readable: {error.strerror}") from None
    if "\0" in text:
        raise UserError(f"manifest ({path}) must be text in UTF-8, and holds a zero byte")
    return text.split("\n")  # universal newlines have turned \r\n into \n


def delimiter_of(path: Path, lines: list[str]) -> str | None:
    """What separates the cells of a CSV file with a header; None for a list."""
    first = next((line for line in lines if line.strip()), "")
    for delimiter in ",\t;":
        if {"path", "label"} & {name.strip().strip('"') for name in first.split(delimiter)}:
            return delimiter
    if {"path", "label"} <= set(first.split()):
        raise UserError(f"{path} line 1: the header ({first.strip()}) must be separated by commas or tabs")
    # PySlowFast calls its space-separated lists train.csv.
    return "," if "," in first and _number(first.split()[-1]) is None and not _is_path(first) else None


def csv_rows(
    path: Path, lines: list[str], delimiter: str, needed: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """The cells of each row by column, and where the row is.

    Raises:
        UserError: a column of ``needed`` is not there, or the first of these is empty in a row.
    """
    table = csv.reader(
        (f"{line}\n" for line in lines), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    columns: list[str] = []
    line = 1  # in which a row begins; a cell may go on over further lines
    try:
        for cells in table:
            where, line = f"{path} line {line}", table.line_num + 1
            if len(cells) < 2 and not "".join(cells).strip():
                continue
            if not columns:
                columns = [name.strip() for name in cells]
                _check_header(f"{where}: the header ({delimiter.join(columns)})", columns, needed)
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{where}: the number of cells ({len(cells)}) must be that of the header ({len(columns)})"
                )
            row = dict(zip(columns, map(str.strip, cells), strict=True))
            if not row[needed[0]]:
                raise UserError(f"{where}: {needed[0]} () must not be empty")
            yield where, row
    except csv.Error as error:
        open_quote = "a quote is opened in it and not closed"
        reason = open_quote if "unexpected end" in str(error) or "field limit" in str(error) else error
        raise UserError(f"{path} line {line}: the line must be readable as CSV: {reason}") from None


def _check_header(header: str, columns: list[str], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in columns:
            raise UserError(f"{header} must name the column {name}")
    for name in columns:
        if name and columns.count(name) > 1:
            raise UserError(f"{header} must name the column {name} once")


def _list_rows(path: Path, lines: list[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line:
            continue
        where = f"{path} line {number}"
        if _is_path(line):
            yield _Row(where, _unquoted(line), "")
            continue
        video, blank, label = line.replace("\t", " ").rpartition(" ")
        video = video.strip()
        if not blank:
            raise UserError(f"{where}: the line ({line}) must be a path, a blank and a label")
        if video.endswith(",") or label.startswith(","):
            raise UserError(
                f"{where}: the separator (comma) must be a blank, or the file must open with path,label"
            )
        yield _Row(where, _unquoted(video), label)


def _is_path(line: str) -> bool:
    """Whether a line of a list is a path alone."""
    return _unquoted(line.strip()).lower().endswith(VIDEO_SUFFIXES)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _videos(folder: Path) -> list[Path]:
    return sorted(
        video
        for video in folder.iterdir()
        if video.suffix.lower() in VIDEO_SUFFIXES and not video.name.startswith(".")
    )


def _number(text: str) -> int | None:
    """A label that is a number; pandas writes 3.0 where another cell of the column was empty."""
    text = text.removesuffix(".0")
    return int(text) if text.removeprefix("-").isdecimal() else None


def seconds_of(where: str, start: str, end: str) -> tuple[float | None, float | None]:
    """The cells start_seconds and end_seconds of a manifest; None where one is empty."""
    if not start and not end:
        return None, None
    first = _seconds(where, "start_seconds", start)
    last = _seconds(where, "end_seconds", end)
    if last is not None and last <= (first or 0.0):
        raise UserError(f"{where}: end_seconds ({last:g}) must be after start_seconds ({first or 0.0:g})")
    return first, last


def _seconds(where: str, name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{where}: {name} ({text}) must be a number of seconds, 0 or more")
    return value
