"""Lists of videos as they are published, all read to the same rows, of which kinetics.py makes manifests."""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from videonorm.errors import UserError

Split = Literal["train", "val", "test"]

_SPLIT_WORDS: dict[str, Split] = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validate": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}


class Listed(NamedTuple):
    """A video as its publisher lists it."""

    where: str  # "train.csv line 3", for messages
    split: Split
    name: str  # path below the folder of videos, or a bare file name, with or without suffix
    label: int | None  # None where the list has no labels
    start_seconds: float | None = None  # bounds inside the file
    end_seconds: float | None = None


class Listing(NamedTuple):
    """All videos of a data set, in the order of its lists."""

    videos: list[Listed]
    class_names: list[str] | None  # by label, in the published order; None where lists have bare numbers
    one_held_out: bool = False  # the publisher has one held-out list, which serves as val and as test


class ClassNames:
    """Names by label; a name is found again whether blanks or underscores stand between its words."""

    def __init__(self, names: list[str], source: str) -> None:
        self.names = names
        self._source = source
        self._labels: dict[str, int] = {}
        for label, name in enumerate(names):
            if not name.strip() or "\n" in name or "\r" in name:
                raise UserError(f"{source}: class {label} ({name!r}) must have a name, on one line")
            if self._labels.setdefault(spaced(name), label) != label:
                raise UserError(f"{source}: class name ({name}) must be there once")

    @classmethod
    def alphabetical(cls, found: Iterable[str], source: str) -> Self:
        """The order that Kinetics publishes, of the names with blanks between their words."""
        spellings: dict[str, str] = {}
        for name in sorted(set(found)):  # of "ride_bike" and "ride bike" the second, published one stays
            if spaced(name) not in spellings or name == spaced(name):
                spellings[spaced(name)] = name
        return cls([spellings[key] for key in sorted(spellings)], source)

    @classmethod
    def read(cls, path: Path) -> Self:
        """A file with a name on each line, or PySlowFast's JSON that gives each name its label."""
        if path.suffix.lower() == ".json":
            return cls.from_json(path)
        lines = [line.strip() for line in _text(path).rstrip("\n").split("\n")]
        if lines == [""]:
            raise UserError(f"classes ({path}) must name at least one class")
        return cls(lines, str(path))

    @classmethod
    def from_json(cls, path: Path) -> Self:
        labels = _json(path)
        try:
            by_label = {int(label): str(name).strip().strip('"') for name, label in labels.items()}
        except (AttributeError, TypeError, ValueError):
            raise UserError(f"classes ({path}) must be a JSON object of name: label") from None
        if not labels or sorted(by_label) != list(range(len(labels))):
            raise UserError(f"classes ({path}) must give {len(labels)} names the labels from 0, each once")
        return cls([by_label[label] for label in range(len(labels))], str(path))

    def label(self, where: str, name: str) -> int:
        """Raises UserError for a name that is none of these."""
        if (label := self._labels.get(spaced(name))) is None:
            raise UserError(
                f"{where}: label ({name}) must be one of the {len(self.names)} classes of {self._source}"
            )
        return label


def spaced(name: str) -> str:
    return name.replace("_", " ")


def kinetics(files: list[Path], classes: ClassNames | None, *, untrimmed: bool = False) -> Listing:
    """The official CSVs of K400, K600 and K700-2020: label,youtube_id,time_start,time_end,split.

    Test lists may have no column label. Labels follow the alphabetical order of the names in all files, or
    ``classes``.

    Args:
        untrimmed: the videos are whole, called youtube_id; else they are clips ID_START_END.
    """
    rows = [row for file in files for row in _kinetics_rows(file)]
    if classes is None:
        classes = ClassNames.alphabetical((row.label for row in rows if row.label), "the annotations")
    videos = []
    for row in rows:
        label = classes.label(row.where, row.label) if row.label else None
        if untrimmed:
            videos.append(Listed(row.where, row.split, row.youtube_id, label, row.start, row.end))
        else:
            name = f"{row.youtube_id}_{int(row.start):06d}_{int(row.end):06d}"
            videos.append(Listed(row.where, row.split, name, label))
    return Listing(videos, classes.names)


class _KineticsRow(NamedTuple):
    where: str
    split: Split
    label: str  # "" where there is none
    youtube_id: str
    start: float  # seconds
    end: float


def _kinetics_rows(file: Path) -> Iterator[_KineticsRow]:
    text = _text(file)
    table = csv.reader((f"{line}\n" for line in text.split("\n")), skipinitialspace=True)
    columns: list[str] = []
    while True:
        try:
            cells = next(table, None)
        except csv.Error as error:
            raise UserError(f"{file} line {table.line_num}: must be readable as CSV: {error}") from None
        where = f"{file} line {table.line_num}"
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        if not columns:
            columns = [cell.strip() for cell in cells]
            for column in ("youtube_id", "time_start", "time_end"):
                if column not in columns:
                    raise UserError(
                        f"{where}: the header ({','.join(columns)}) must name the column {column}, "
                        "as the official annotations do"
                    )
            continue
        if len(cells) != len(columns):
            raise UserError(
                f"{where}: the number of cells ({len(cells)}) must be that of the header ({len(columns)})"
            )
        row = {column: cell.strip() for column, cell in zip(columns, cells, strict=True)}
        if not row["youtube_id"]:
            raise UserError(f"{where}: youtube_id () must not be empty")
        start = _seconds(where, "time_start", row["time_start"])
        end = _seconds(where, "time_end", row["time_end"])
        if end <= start:
            raise UserError(f"{where}: time_end ({end:g}) must be after time_start ({start:g})")
        split = _split_of_row(where, row["split"]) if "split" in row else _split_of_file(file)
        yield _KineticsRow(where, split, row.get("label", ""), row["youtube_id"], start, end)
    if not columns:
        raise UserError(f"annotations ({file}) must have a header with the columns of the official files")


def _split_of_row(where: str, word: str) -> Split:
    if (split := _SPLIT_WORDS.get(word.lower())) is None:
        raise UserError(f"{where}: split ({word}) must be train, val, validate or test")
    return split


def _split_of_file(file: Path) -> Split:
    found = {_SPLIT_WORDS[word] for word in re.findall("[a-z]+", file.stem.lower()) if word in _SPLIT_WORDS}
    if len(found) != 1:
        raise UserError(f"annotations ({file}) must have a column split, or train, val or test in its name")
    return found.pop()


def split_of_folder(name: str) -> Split | None:
    """``train``, ``videos_val``, ``test_256`` ... are splits; the class "training dog" is not."""
    words = set(re.findall("[a-z]+", name.lower())) & _SPLIT_WORDS.keys() - {"training", "testing"}
    return _SPLIT_WORDS[words.pop()] if len(words) == 1 else None


def class_folders(root: Path, files: list[str], classes: ClassNames | None, split: Split) -> Listing:
    """A tree with a folder for each class, in folders train, val and test or in none.

    Args:
        files: paths of the videos below ``root``.
        split: what the videos are where the tree has no folders of splits.
    """
    folders = _folders(root)
    splits = {name: _SPLIT_WORDS[name.lower()] for name in folders if name.lower() in _SPLIT_WORDS}
    tops = {name: _folders(root / name) for name in splits} if splits else {"": folders}
    if not any(tops.values()):
        raise UserError(f"--videos ({root}) must hold a folder for each class, perhaps in train, val, test")
    if classes is None:
        classes = ClassNames.alphabetical((name for names in tops.values() for name in names), str(root))
    labels = {
        os.path.join(top, name): classes.label(str(root / top / name), name)
        for top, names in tops.items()
        for name in names
    }
    videos = []
    for file in files:
        parts = file.split(os.sep)
        folder = os.sep.join(parts[: 2 if splits else 1])
        if folder in labels and len(parts) > (2 if splits else 1):
            its_split = splits[parts[0]] if splits else split
            videos.append(Listed(str(root / folder), its_split, file, labels[folder]))
    return Listing(videos, classes.names)


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")


def path_label_lists(
    lists: Mapping[Split, Path], classes: ClassNames | None, separator: str | None = None
) -> Listing:
    """Lists with ``path label`` on each line, as MMAction2 and PySlowFast have them.

    Args:
        separator: what stands between path and label (PySlowFast's DATA.PATH_LABEL_SEPARATOR); by default
            blanks or tabs.
    """
    videos = []
    for split, file in lists.items():
        for where, line in _lines(file):
            path, label = _path_and_label(where, line, separator)
            if classes is not None and label >= len(classes.names):
                raise UserError(
                    f"{where}: label ({label}) must be below {len(classes.names)}, the number of classes"
                )
            videos.append(Listed(where, split, path, label))
    return Listing(videos, classes.names if classes else None)


def _path_and_label(where: str, line: str, separator: str | None) -> tuple[str, int]:
    if separator is None:
        path, _, label = line.replace("\t", " ").rpartition(" ")
    else:
        path, _, label = line.rpartition(separator)
    path, label = path.strip(), label.strip()
    if not path:
        name = "a blank" if separator in (None, " ") else repr(separator)
        raise UserError(f"{where}: the line ({line}) must be a path, {name} and a label; see --separator")
    if not label.isdecimal():
        raise UserError(f"{where}: label ({label}) must be a number from 0")
    return path, int(label)


def ucf101(folder: Path, fold: int) -> Listing:
    """trainlist0N.txt (``Class/video.avi 1``, labels from 1), testlist0N.txt (no labels) and classInd.txt."""
    index = folder / "classInd.txt"
    names: list[str] = []
    for where, line in _lines(index):
        number, _, name = line.partition(" ")
        if number != str(len(names) + 1) or not name.strip():
            raise UserError(f"{where}: the line ({line}) must be {len(names) + 1}, a blank and a class name")
        names.append(name.strip())
    classes = ClassNames(names, str(index))
    videos = []
    splits: dict[Split, str] = {"train": f"trainlist{fold:02d}.txt", "test": f"testlist{fold:02d}.txt"}
    for split, name in splits.items():
        for where, line in _lines(folder / name):
            path, _, number = line.rpartition(" ") if line.split()[-1].isdecimal() else (line, "", "")
            label = classes.label(where, os.path.dirname(path.strip()))
            if number and int(number) != label + 1:
                raise UserError(
                    f"{where}: label ({number}) must be {label + 1}, as {names[label]} has in classInd.txt"
                )
            videos.append(Listed(where, split, path.strip(), label))
    return Listing(videos, classes.names, one_held_out=True)


def hmdb51(folder: Path, fold: int) -> Listing:
    """CLASS_test_splitN.txt with ``video.avi 1`` (train), ``2`` (test) or ``0`` (in neither)."""
    ending = f"_test_split{fold}.txt"
    files = sorted(file for file in folder.iterdir() if file.name.endswith(ending) and file.name[0] != ".")
    if not files:
        raise UserError(f"--annotations ({folder}) must hold HMDB51's files CLASS{ending}")
    classes = ClassNames(sorted(file.name.removesuffix(ending) for file in files), str(folder))
    splits: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}
    videos = []
    for file in files:
        name = file.name.removesuffix(ending)
        label = classes.label(str(file), name)
        for where, line in _lines(file):
            video, _, number = line.rpartition(" ")
            if not video or number not in splits:
                raise UserError(f"{where}: the line ({line}) must be a video, a blank and 0, 1 or 2")
            if split := splits[number]:
                videos.append(Listed(where, split, f"{name}/{video.strip()}", label))
    return Listing(videos, classes.names, one_held_out=True)


def something_something(folder: Path) -> Listing:
    """labels.json, train.json, validation.json and test.json (no labels) of Something-Something v2.

    A template with brackets, ``Holding [something]``, is the class ``Holding something``. The names of a
    download, something-something-v2-train.json, serve as well.
    """
    classes = ClassNames.from_json(_one_file(folder, "labels.json"))
    videos = []
    splits: dict[Split, str] = {"train": "train.json", "val": "validation.json", "test": "test.json"}
    for split, name in splits.items():
        if split == "test" and not list(folder.glob(f"*{name}")):
            continue
        file = _one_file(folder, name)
        for where, item in _items(file):
            template = item.get("template")
            if not template and split != "test":
                raise UserError(f"{where}: template () must not be empty")
            words = str(template or "").replace("[", "").replace("]", "")
            label = classes.label(where, words) if words else None
            videos.append(Listed(where, split, _name(where, item, "id"), label))
    return Listing(videos, classes.names)


def diving48(folder: Path) -> Listing:
    """Diving48_V2_train.json, Diving48_V2_test.json (or those of V1) and Diving48_vocab.json."""
    vocabulary = _one_file(folder, "vocab.json")
    words = _json(vocabulary)
    if not isinstance(words, list) or not all(isinstance(dive, list) for dive in words) or not words:
        raise UserError(f"annotations ({vocabulary}) must be a JSON list with the list of each dive's parts")
    classes = ClassNames([" ".join(map(str, dive)) for dive in words], str(vocabulary))
    version = "V2_" if list(folder.glob("*V2_train.json")) else ""
    splits: dict[Split, str] = {"train": f"{version}train.json", "test": f"{version}test.json"}
    videos = []
    for split, name in splits.items():
        for where, item in _items(_one_file(folder, name)):
            label = item.get("label")
            if not isinstance(label, int) or not 0 <= label < len(words):
                raise UserError(
                    f"{where}: label ({label}) must be a number from 0, below {len(words)}, "
                    "the number of dives in the vocabulary"
                )
            videos.append(Listed(where, split, _name(where, item, "vid_name"), label))
    return Listing(videos, classes.names, one_held_out=True)


def _one_file(folder: Path, ending: str) -> Path:
    files = sorted(file for file in folder.glob(f"*{ending}") if file.name[0] != ".")
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(f"--annotations ({folder}) must hold one file *{ending}, and holds {found}")
    return files[0]


def _items(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    items = _json(file)
    if not isinstance(items, list):
        raise UserError(f"annotations ({file}) must be a JSON list with an object for each video")
    for number, item in enumerate(items, start=1):
        where = f"{file} video {number}"
        if not isinstance(item, dict):
            raise UserError(f"{where}: {json.dumps(item)} must be a JSON object")
        yield where, item


def _name(where: str, item: dict[str, Any], key: str) -> str:
    if not (name := str(item.get(key) or "").strip()):
        raise UserError(f"{where}: {key} () must not be empty")
    return name


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """(where, line) of the lines that are not blank."""
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if line.strip():
            yield f"{file} line {number}", line.strip()


def _json(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} line {error.lineno}: must be readable as JSON: {error.msg}") from None


def _text(file: Path) -> str:
    try:
        # A name may hold any byte; a byte order mark is no part of the first word.
        return file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"annotations ({file}) must be a file that can be read: {error.strerror}") from None


def _seconds(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise UserError(f"{where}: {name} ({text}) must be a number of seconds, 0 or more")
    return value
