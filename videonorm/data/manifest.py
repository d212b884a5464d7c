"""Which videos, with which labels: from CSV files, space-separated lists and folder-per-class trees."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from videonorm.data.class_folders import NO_CLASS, read_class_folders, spaced
from videonorm.data.decoding.location import is_remote, without_credentials
from videonorm.data.entries import UNLABELLED, Entries
from videonorm.data.rows import (
    Row,
    check_root,
    csv_rows,
    delimiter_of,
    joiner,
    list_rows,
    number_of,
    read_lines,
    seconds_of,
)
from videonorm.data.splits import Split
from videonorm.errors import UserError
from videonorm.machine import is_first_process
from videonorm.messages import some_of


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

    def check_classes(self, num_classes: int) -> None:
        """Raise UserError for a label that a model of so many classes does not know."""
        if self.largest_label >= num_classes:
            raise UserError(
                f"label ({self.largest_label}) must be below num_classes ({num_classes}) of the model; it is "
                f"in {self.path}{self._count_from_0()}"
            )

    def warn_of_empty_classes(self, num_classes: int) -> None:
        """Say which classes of a model, of so many, have no video here."""
        used = set(self.entries.labels.tolist())
        empty = [label for label in range(num_classes) if label not in used]
        names = dict(enumerate(self.class_names or []))
        # Of the empty folders of a tree ``read_manifest`` has said it.
        if not all(label in names and (self.path / names[label]).is_dir() for label in empty):
            shown = [f"{label} ({names[label]})" if label in names else str(label) for label in empty]
            warnings.warn(
                f"classes of the model without a video in {self.path}: {len(empty):,} of {num_classes:,} "
                f"(num_classes), {some_of(shown)}{self._count_from_0()}",
                stacklevel=2,
            )

    def _count_from_0(self) -> str:
        smallest = int(self.entries.labels.min())
        bare = self.class_names is None and smallest > 0
        return f"; labels count from 0, and the smallest there is {smallest}" if bare else ""


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
            - a folder with one folder of videos for each class: see ``read_class_folders``.

            A label is a number from 0 or the name of a class. A path may be a URL: see ``is_remote``.
        root: folder or URL that relative paths start from; by default the folder of the manifest.
        split: take only the rows of this split where the CSV has the column ``split``, or the folder the
            folders train, val, test.
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
    if not os.path.exists(path):
        raise UserError(f"manifest ({path}) must be a file or folder that exists")
    of_split = f" of split {split}" if split else ""
    named = False  # it has the column class_name
    if path.is_dir():
        rows, found = _rows_of_folder(path, split, class_names, labels_required)
        class_names = class_names if class_names is not None else found
    else:
        lines = read_lines(path)
        delimiter = delimiter_of(path, lines)
        if delimiter is None:
            rows = list(list_rows(path, lines))
        else:
            needed = ("path", "label") if labels_required else ("path",)
            rows = []
            for where, cells in csv_rows(path, lines, delimiter, needed):
                named = "class_name" in cells
                if split is None or cells.get("split", split) == split:
                    rows.append(Row(where, *map(cells.get, Row._fields[1:], repeat(""))))
    if not rows:
        raise UserError(f"manifest ({path}) must list at least one video{of_split}")

    first: dict[tuple[str, str], Row] = {}  # of those with the same label, to which the same applies
    for row in rows:
        first.setdefault((row.label, row.class_name), row)
    kinds = list(first.values())
    if not path.is_dir():
        _check_labels(path, kinds, labels_required, is_list=delimiter is None)
    names = list(class_names) if class_names is not None else None
    numbers = {number_of(row.label) for row in kinds if row.label}
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
    check_root(path, root, [row.path for row in rows[:10]])
    entries = Entries(
        paths, [labels[row.label, row.class_name] for row in rows], np.array(bounds, dtype=np.float64)
    )
    return Manifest(path, entries, num_classes, names)


def _rows_of_folder(
    path: Path, split: Split | None, class_names: Sequence[str] | None, labels_required: bool
) -> tuple[list[Row], list[str] | None]:
    """The rows of a folder of class folders, and its class names; says what it leaves out.

    Args:
        class_names: spell those of the folders, where they differ in blanks and underscores alone.
    """
    tree = read_class_folders(path)
    spelled = {spaced(name): name for name in class_names or tree.class_names}
    notice = tree.notice()
    rows: dict[str, Row] = {}  # by real path
    for video in tree.videos:
        if split in (None, video.split) or video.split is None:
            name = spelled.get(spaced(video.class_name), video.class_name)
            row = rows.setdefault(video.real, Row(str(path / video.path), video.path, name))
            if row.path != video.path:
                raise UserError(
                    f"manifest ({path}) must hold a video once, and {video.path} is {row.path} too"
                )
    loose = [file.path for file in tree.left_out if file.kind == NO_CLASS and os.sep not in file.path]
    if not tree.videos and not labels_required and loose:
        return [Row(str(path), video, "") for video in loose], None
    if not tree.videos:
        lists = [f"it holds {file.name}" for file in sorted(path.glob("*.csv"))[:1]]
        found = lists + [notice] * bool(tree.left_out)
        raise UserError(
            f"manifest ({path}) must hold a folder with videos for each class, or be a file"
            + "".join(f"; {what}" for what in found)
        )
    if labels_required and class_names is None:
        tree.check_root(f"manifest ({path})")
    if notice and is_first_process():
        warnings.warn(f"{path}: {notice}", stacklevel=3)
    return list(rows.values()), tree.class_names


def _check_once(rows: list[Row], paths: list[str], bounds: list[tuple[float | None, float | None]]) -> None:
    """Raise UserError for a video, or a stretch of one, that is listed twice."""
    seen: dict[tuple[str, tuple[float | None, float | None]], Row] = {}
    for row, path, stretch in zip(rows, paths, bounds, strict=True):
        if "/." in path or "//" in path[1:]:
            path = os.path.normpath(path)
        first = seen.setdefault((path, stretch), row)
        if first is not row:
            shown = without_credentials(row.path)
            raise UserError(f"{row.where}: path ({shown}) must be listed once, and is on {first.where} too")


def _check_labels(path: Path, rows: list[Row], required: bool, is_list: bool) -> None:
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


def _names_of_rows(path: Path, rows: list[Row]) -> list[str] | None:
    """Class names by label from the column class_name, and classes.txt where that is beside the manifest."""
    first: dict[int, Row] = {}  # row that named a label
    labels: dict[str, int] = {}
    for row in rows:
        label, name = number_of(row.label), row.class_name
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
    num_classes = max(number_of(row.label) or 0 for row in rows) + 1
    return [names.get(label, str(label)) for label in range(num_classes)] if names else None


def _label(row: Row, label_of: dict[str, int], names: list[str] | None, num_classes: int | None) -> int:
    label = number_of(row.label)
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
