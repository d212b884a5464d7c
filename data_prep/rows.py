"""The rows of manifests with all their columns: read, written, and named where a video cannot be used."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from script import printable

from videonorm.data import BadVideo, BadVideos, read_manifest
from videonorm.data.decoding.location import without_credentials
from videonorm.data.rows import (
    base_of,
    check_root,
    csv_rows,
    delimiter_of,
    joiner,
    read_lines,
    seconds_of,
)
from videonorm.errors import UserError
from videonorm.files import open_new, to_cell


class Row(NamedTuple):
    """One video of a manifest."""

    path: str  # absolute, or a URL
    start_seconds: float | None
    end_seconds: float | None
    cells: dict[str, str]  # as written, by column
    split: str  # the column of that name, or else the name of the manifest
    base: str  # folder or URL that relative paths of the manifest start from


def read_rows(path: Path, root: str | Path | None = None) -> list[Row]:
    """Read a manifest: a CSV with a header, or what else ``read_manifest`` takes.

    A CSV may have no labels, as the test lists of some data sets; they are for training to check.

    Raises:
        UserError: one sentence, with the line number where there is one.
    """
    if not path.exists():
        raise UserError(f"manifest ({path}) must be a file or folder that exists")
    base = base_of(path, root)
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
            rows.append(Row(entry.path, entry.start_seconds, entry.end_seconds, cells, path.stem, base))
        return rows
    join = joiner(path, root)
    for where, cells in csv_rows(path, lines, delimiter, ["path"]):
        bounds = seconds_of(where, cells.get("start_seconds", ""), cells.get("end_seconds", ""))
        rows.append(Row(join(cells["path"]), *bounds, cells, cells.get("split") or path.stem, base))
    if not rows:
        raise UserError(f"manifest ({path}) must list at least one video")
    check_root(path, root, [row.cells["path"] for row in rows[:10]])
    return rows


def read_all(manifests: Sequence[Path], root: str | Path | None) -> list[Row]:
    """The rows of several manifests, one after the other."""
    return [row for path in manifests for row in read_rows(path, root)]


def read_by_name(manifests: Sequence[Path], root: str | Path | None) -> dict[str, list[Row]]:
    """The rows of each manifest by the name of the new one that is made of it.

    Raises:
        UserError: two have the same name, or one cannot be read.
    """
    names = ["manifest" if path.is_dir() else path.stem for path in manifests]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"manifests ({twice}) must have different names, for new ones are called the same")
    return {name: read_rows(path, root) for name, path in zip(names, manifests, strict=True)}


def read_classes(manifests: Sequence[Path]) -> bytes | None:
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


def write_rows(path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str] = ()) -> None:
    """Write rows to a CSV file; see ``to_cell``. A path in a manifest must be none that this changes.

    Args:
        columns: in their order; by default those of the rows, in the order in which they first come up.
    """
    if not columns:
        rows = list(rows)
        columns = list(dict.fromkeys(name for row in rows for name in row)) or ["path", "label"]
    with open_new(path) as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writerow({name: to_cell(name) for name in columns})
        for row in rows:
            writer.writerow(
                {name: to_cell(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
            )


class BadRows:
    """The videos that cannot be used, of which a script says which and how many they are."""

    def __init__(self) -> None:
        self._videos = BadVideos()
        self._count = 0

    def add(self, rows: Iterable[Row], reason: str) -> bool:
        """Note a video by the rows that ask for it; returns whether its file was not among these before.

        Args:
            reason: completes the sentence "the video ...".
        """
        self._count += 1
        return any([self._videos.add(row.split, [BadVideo(row.path, reason)]) for row in rows])

    def write(self, path: Path, num_videos: int, max_bad_fraction: float) -> int:
        """Write them to a CSV file with the columns path, reason, split; returns the script's exit code."""
        self._videos.write(path)
        print(f"{self._count} of {num_videos} videos are bad: {printable(path)}")
        return int(self._count > max_bad_fraction * num_videos)


def say_bad(path: str, reason: str) -> None:
    print(f"bad: {printable(without_credentials(path))} {printable(reason)}", flush=True)
