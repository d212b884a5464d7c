"""The rows of a manifest as they are written: CSV files and space-separated lists."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from videonorm.data.class_folders import VIDEO_SUFFIXES
from videonorm.data.decoding.location import is_remote
from videonorm.errors import UserError
from videonorm.files import from_cell


class Row(NamedTuple):
    """An entry as written."""

    where: str  # "train.csv line 3", for messages
    path: str
    label: str
    class_name: str = ""
    start_seconds: str = ""
    end_seconds: str = ""


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


def check_root(path: Path, root: str | Path | None, cells: Sequence[str]) -> None:
    """Raise UserError if none of some paths, as a manifest has them, is there; URLs are taken to be."""
    videos = list(map(joiner(path, root), cells))
    if not videos or any(map(_is_there, videos)):
        return
    hint = ""
    if root is not None and any(map(_is_there, map(joiner(path, None), cells))):
        hint = "; they start beside the manifest: leave root out (videonorm fit: --data.source.root null)"
    elif any(map(_is_there, map(joiner(path, "."), cells))):
        hint = "; they start in the current folder, as they do with root ."
    raise UserError(
        f"root ({base_of(path, root)}) must be where the paths in {path} start: there is no {videos[0]}{hint}"
    )


def _is_there(video: str) -> bool:
    # The file itself, or one that it is packed in.
    return is_remote(video) or os.path.lexists(video) or any(map(os.path.isfile, Path(video).parents))


def read_lines(path: Path) -> list[str]:
    """The lines of a manifest, or of a list of classes.

    Raises:
        UserError: it cannot be read, or is something else: a video, a spreadsheet, JSON, no text.
    """
    if path.name.lower().endswith(VIDEO_SUFFIXES):
        raise UserError(
            f"manifest ({path}) must be a CSV file, a list, or a folder with a folder of videos for each "
            f"class, and is a video by its name"
        )
    text = read_text(path, "manifest")
    if text.lstrip()[:1] in ("{", "["):
        try:
            json.loads(text)
        except ValueError:
            pass  # the name of a video may begin so
        else:
            raise UserError(f"manifest ({path}) must be a CSV file or a list, and is JSON")
    return text.split("\n")


def read_text(path: Path, name: str) -> str:
    """A text file of a user's, with \\n at the ends of its lines; ``name`` is what it is called in errors.

    Raises:
        UserError: it cannot be read, or is no text in UTF-8.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4096)  # enough to refuse gigabytes of something else
            for magic, found in _NO_TEXT.items():
                if start.startswith(magic):
                    raise UserError(f"{name} ({path}) must be text in UTF-8, and is {found}")
            content = start if b"\0" in start else start + file.read()
    except OSError as error:
        raise UserError(f"{name} ({path}) must be a file that can be read: {error.strerror}") from None
    if b"\0" in content:
        raise UserError(f"{name} ({path}) must be text in UTF-8, and holds a zero byte")
    # A name may hold any byte; a byte order mark is no part of the first word.
    text = content.decode("utf-8-sig", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n")


_NO_TEXT = {
    b"PK\x03\x04": "a spreadsheet or another zip archive: save it as CSV",
    b"\xd0\xcf\x11\xe0": "a spreadsheet of an old kind: save it as CSV",
    b"PAR1": "Parquet: save it as CSV",
    b"\x1f\x8b": "compressed: unpack it",
    b"\xff\xfe": "in UTF-16: save it in UTF-8",
    b"\xfe\xff": "in UTF-16: save it in UTF-8",
}


def delimiter_of(path: Path, lines: list[str]) -> str | None:
    """What separates the cells of a CSV file with a header; None for a list."""
    first = next((line for line in lines if line.strip()), "")
    for delimiter in ",\t;":
        if {"path", "label"} & {name.strip().strip('"') for name in first.split(delimiter)}:
            return delimiter
    if {"path", "label"} <= set(first.split()):
        raise UserError(f"{path} line 1: the header ({first.strip()}) must be separated by commas or tabs")
    # PySlowFast calls its space-separated lists train.csv.
    return "," if "," in first and number_of(first.split()[-1]) is None and not _is_path(first) else None


def csv_rows(
    path: Path, lines: list[str], delimiter: str, needed: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """The cells of each row by column, and where the row is; see ``from_cell``, but paths are as they are.

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
                columns = [from_cell(name.strip()) for name in cells]
                _check_header(f"{where}: the header ({delimiter.join(columns)})", columns, needed)
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{where}: the number of cells ({len(cells)}) must be that of the header ({len(columns)})"
                )
            row = {
                name: cell if name == "path" else from_cell(cell)
                for name, cell in zip(columns, map(str.strip, cells), strict=True)
            }
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


def list_rows(path: Path, lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line:
            continue
        where = f"{path} line {number}"
        if _is_path(line):
            yield Row(where, _unquoted(line), "")
            continue
        video, blank, label = line.replace("\t", " ").rpartition(" ")
        video = video.strip()
        if not blank:
            raise UserError(f"{where}: the line ({line}) must be a path, a blank and a label")
        if video.endswith(",") or label.startswith(","):
            raise UserError(
                f"{where}: the separator (comma) must be a blank, or the file must open with path,label"
            )
        yield Row(where, _unquoted(video), label)


def _is_path(line: str) -> bool:
    """Whether a line of a list is a path alone."""
    return _unquoted(line.strip()).lower().endswith(VIDEO_SUFFIXES)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text


def number_of(text: str) -> int | None:
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
