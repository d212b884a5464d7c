"""Videos as their publishers list them: what every kind of list is read to."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from videonorm.data import Split
from videonorm.data.class_folders import LeftOut, alphabetical, spaced
from videonorm.data.rows import read_text
from videonorm.data.splits import SPLIT_WORDS
from videonorm.errors import UserError


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
    left_out: Sequence[LeftOut] = ()  # files that are no videos of a class, where folders are read
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
        """The order that Kinetics publishes."""
        return cls(alphabetical(found), source)

    @classmethod
    def read(cls, path: Path) -> Self:
        """A file with a name on each line, or PySlowFast's JSON that gives each name its label."""
        if path.suffix.lower() == ".json":
            return cls.from_json(path)
        lines = [line.strip() for line in read_text(path, "annotations").rstrip("\n").split("\n")]
        if lines == [""]:
            raise UserError(f"classes ({path}) must name at least one class")
        return cls(lines, str(path))

    @classmethod
    def from_json(cls, path: Path) -> Self:
        labels = read_json(path)
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


def split_of_folder(name: str) -> Split | None:
    """``train``, ``videos_val``, ``test_256`` ... are splits; the class "training dog" is not."""
    words = set(re.findall("[a-z]+", name.lower())) & SPLIT_WORDS.keys() - {"training", "testing"}
    return SPLIT_WORDS[words.pop()] if len(words) == 1 else None


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """(where, line) of the lines that are not blank."""
    for number, line in enumerate(read_text(file, "annotations").split("\n"), start=1):
        if line.strip():
            yield f"{file} line {number}", line.strip()


def read_json(file: Path) -> Any:
    try:
        return json.loads(read_text(file, "annotations"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} line {error.lineno}: must be readable as JSON: {error.msg}") from None
