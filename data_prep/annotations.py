"""Lists of videos as they are published, all read to the same rows."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from listing import ClassNames, Listed, Listing, read_json, read_lines

from videonorm.data import Split
from videonorm.data.class_folders import read_class_folders
from videonorm.data.rows import csv_rows, read_text
from videonorm.data.splits import SPLIT_WORDS
from videonorm.errors import UserError


def kinetics(files: list[Path], classes: ClassNames | None, *, untrimmed: bool = False) -> Listing:
    """The official CSVs of K400, K600 and K700-2020: label,youtube_id,time_start,time_end,split.

    Test lists may have no column label. Labels follow the alphabetical order of the names in all files, or
    ``classes``.

    Args:
        untrimmed: the videos are whole, called youtube_id; else they are clips ID_START_END.
    """
    rows = [(file, where, cells) for file in files for where, cells in _csv_rows(file)]
    if classes is None:
        names = (cells["label"] for _, _, cells in rows if cells.get("label"))
        classes = ClassNames.alphabetical(names, "the annotations")
    videos = []
    for file, where, cells in rows:
        start = _seconds(where, "time_start", cells["time_start"])
        end = _seconds(where, "time_end", cells["time_end"])
        if end <= start:
            raise UserError(f"{where}: time_end ({end:g}) must be after time_start ({start:g})")
        split = _split_of_row(where, cells["split"]) if "split" in cells else _split_of_file(file)
        label = classes.label(where, cells["label"]) if cells.get("label") else None
        name = cells["youtube_id"]
        if untrimmed:
            videos.append(Listed(where, split, name, label, start, end))
        else:
            videos.append(Listed(where, split, f"{name}_{int(start):06d}_{int(end):06d}", label))
    return Listing(videos, classes.names)


def _csv_rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    lines = read_text(file, "annotations").split("\n")
    if not any(line.strip() for line in lines):
        raise UserError(f"annotations ({file}) must have a header with the columns of the official files")
    return csv_rows(file, lines, ",", ("youtube_id", "time_start", "time_end"))


def _split_of_row(where: str, word: str) -> Split:
    if (split := SPLIT_WORDS.get(word.lower())) is None:
        raise UserError(f"{where}: split ({word}) must be train, val, validate or test")
    return split


def _split_of_file(file: Path) -> Split:
    found = {SPLIT_WORDS[word] for word in re.findall("[a-z]+", file.stem.lower()) if word in SPLIT_WORDS}
    if len(found) != 1:
        raise UserError(f"annotations ({file}) must have a column split, or train, val or test in its name")
    return found.pop()


def class_folders(root: Path, classes: ClassNames | None, split: Split) -> Listing:
    """A tree with a folder for each class, in folders train, val and test or in none.

    Args:
        split: what the videos are where the tree has no folders of splits.
    """
    tree = read_class_folders(root)
    if not tree.class_names:
        raise UserError(f"--videos ({root}) must hold a folder for each class, perhaps in train, val, test")
    if classes is None:
        tree.check_root(f"--videos ({root})")
        classes = ClassNames(tree.class_names, str(root))
    labels = {name: classes.label(str(root / name), name) for name in tree.class_names}
    videos = []
    for video in tree.videos:
        where = str(root / os.path.dirname(video.path))
        videos.append(Listed(where, video.split or split, video.path, labels[video.class_name]))
    return Listing(videos, classes.names, tree.left_out)


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
        for where, line in read_lines(file):
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
    for where, line in read_lines(index):
        number, _, name = line.partition(" ")
        if number != str(len(names) + 1) or not name.strip():
            raise UserError(f"{where}: the line ({line}) must be {len(names) + 1}, a blank and a class name")
        names.append(name.strip())
    classes = ClassNames(names, str(index))
    videos = []
    splits: dict[Split, str] = {"train": f"trainlist{fold:02d}.txt", "test": f"testlist{fold:02d}.txt"}
    for split, name in splits.items():
        for where, line in read_lines(folder / name):
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
        for where, line in read_lines(file):
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
    words = read_json(vocabulary)
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
    items = read_json(file)
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


def _seconds(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise UserError(f"{where}: {name} ({text}) must be a number of seconds, 0 or more")
    return value
