"""A folder with a folder of videos for each class: one reading of it, for training and for data_prep."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from videonorm.data.splits import SPLIT_WORDS, Split
from videonorm.errors import UserError
from videonorm.messages import some_of

VIDEO_SUFFIXES = (
    *(".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv"),
)

NO_CLASS = "in no folder of a class"


class ClassVideo(NamedTuple):
    """A video in the folder of its class, or in a folder below that."""

    path: str  # below the root
    real: str  # absolute, without links
    class_name: str
    split: Split | None  # where the folders of classes are in folders of splits


class LeftOut(NamedTuple):
    """A file that is no video of a class."""

    path: str  # below the root
    kind: str  # "hidden", "suffix .jpg", or ``NO_CLASS``


class ClassFolders(NamedTuple):
    """What a tree of class folders holds, in the order of the names."""

    videos: list[ClassVideo]
    class_names: list[str]  # by label; a class that has no video keeps its place
    left_out: list[LeftOut]

    @property
    def all_deeper(self) -> bool:
        """Whether no video is right in the folder of its class: perhaps the root is another folder."""
        depths = {video.path.count(os.sep) - (video.split is not None) for video in self.videos}
        return bool(depths) and min(depths) > 1

    def check_root(self, name: str) -> None:
        """Raise UserError for a root, which ``name`` begins the sentence of, that must be a level below."""
        if len(self.class_names) == 1 and self.all_deeper:
            (only,) = self.class_names
            raise UserError(
                f"{name} must hold a folder for each class, and holds one, {only}, with folders in it"
            )

    def notice(self) -> str:
        """What a reader may not expect: how many files are left out, and which classes are empty; or ""."""
        parts = []
        if self.left_out:
            kinds = Counter(kind for _, kind in self.left_out)
            counts = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(kinds.items()))
            parts.append(f"files left out ({counts}), the first of them {self.left_out[0].path}")
        used = {video.class_name for video in self.videos}
        if empty := [name for name in self.class_names if name not in used]:
            parts.append(f"classes without a video, which keep their labels: {some_of(empty)}")
        if self.all_deeper:
            parts.append(f"no video is right in the folder of its class, of {some_of(self.class_names)}")
        return "; ".join(parts)


def read_class_folders(root: str | Path) -> ClassFolders:
    """Read a tree with a folder for each class, in folders train, val, test or in none.

    A video belongs to the class in whose folder it is, however far below. Links are followed. Names that
    begin with a dot, and folders of that kind, are nothing. Top folders that are called as splits and
    hold folders are splits, unless all of these hold videos too. Labels follow the alphabetical order of all
    classes, those without a video and those of other splits too, so that trees of several machines agree.

    Raises:
        UserError: a folder cannot be read.
    """
    root = str(root)
    tops = _folders(root)
    splits = _splits(root, tops)
    depth = 1 if splits else 0  # of the folders of classes
    folders = [name for top in splits for name in _folders(os.path.join(root, top))] if splits else tops
    class_names = alphabetical(folders)
    name_of = {spaced(name): name for name in class_names}
    videos, left_out = [], []
    for path, real in files_below(root):
        *above, name = path.split(os.sep)
        of_class = len(above) > depth and (not splits or above[0] in splits)
        if not name.lower().endswith(VIDEO_SUFFIXES):
            if of_class and not name.startswith("."):
                left_out.append(LeftOut(path, f"suffix {os.path.splitext(name)[1].lower() or 'missing'}"))
        elif name.startswith("."):  # ._x.mp4 is what macOS puts into tar files, and no video
            left_out.append(LeftOut(path, "hidden"))
        elif not of_class:
            left_out.append(LeftOut(path, NO_CLASS))
        else:
            split = splits[above[0]] if splits else None
            videos.append(ClassVideo(path, real, name_of[spaced(above[depth])], split))
    return ClassFolders(videos, class_names, left_out)


def files_below(root: str) -> Iterator[tuple[str, str]]:
    """(path below ``root``, real path) of every file, in the order of their names.

    Links are followed, but for one that leads back up. Folders whose names begin with a dot are passed over.

    Raises:
        UserError: a folder cannot be read.
    """
    start = os.path.realpath(root)
    yield from _files(start, start, "", (start,))


def _files(folder: str, real: str, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for entry in _entries(folder):
        its_real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
        path = prefix + entry.name
        if not _is_folder(entry):
            yield path, its_real
        elif entry.name[0] != "." and not _leads_up(its_real, above):
            yield from _files(entry.path, its_real, path + os.sep, (*above, its_real))


def _leads_up(folder: str, above: tuple[str, ...]) -> bool:
    return any(other == folder or other.startswith(folder + os.sep) for other in above)


def alphabetical(found: Iterable[str]) -> list[str]:
    """Class names, each once, in the order that Kinetics publishes: that of names with blanks in them.

    Underscores stand for blanks in the names of folders; of "ride_bike" and "ride bike" the second stays.
    """
    spellings: dict[str, str] = {}
    for name in sorted(set(found)):
        if spaced(name) not in spellings or name == spaced(name):
            spellings[spaced(name)] = name
    return [spellings[key] for key in sorted(spellings)]


def spaced(name: str) -> str:
    return name.replace("_", " ")


def _folders(folder: str) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.name[0] != "." and _is_folder(entry)]


def _splits(root: str, tops: list[str]) -> dict[str, Split]:
    """Those of the top folders that are splits."""
    splits: dict[str, Split] = {}
    without_videos = 0
    for name in tops:
        folder = os.path.join(root, name)
        if name.lower() in SPLIT_WORDS and _folders(folder):
            splits[name] = SPLIT_WORDS[name.lower()]
            without_videos += not any(map(_is_video, _entries(folder)))
    return splits if without_videos else {}


def _is_video(entry: os.DirEntry[str]) -> bool:
    return entry.name[0] != "." and entry.name.lower().endswith(VIDEO_SUFFIXES)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"folder ({folder}) must be readable: {error.strerror}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
