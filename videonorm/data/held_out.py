"""A part of the training videos that is set apart, so that settings are chosen without the validation videos.

Which part follows from the paths alone: it is the same in every run, whatever its seed and wherever the data
set lies.
"""

import os
from collections import Counter, defaultdict
from dataclasses import replace
from hashlib import sha256

from videonorm.data.entries import Entries, Entry
from videonorm.data.manifest import Manifest
from videonorm.errors import UserError


def hold_out(manifest: Manifest, share: float) -> tuple[Manifest, Manifest]:
    """The videos to train on, and those held out: of each class ``share`` of its videos, rounded.

    All rows of a file go together, and files in the order of a hash of their paths, without the folder that
    all begin with. A file is held out if no class of it gets more than its share; then, for a class that has
    none yet, the first file that leaves every class a video to train on. So a class with two files loses one,
    unless the file has the only videos of another class.

    Args:
        share: above 0, below 1.

    Raises:
        UserError: no class has videos in two files.
    """
    entries = list(manifest.entries)
    files = [os.path.normpath(entry.path) for entry in entries]
    paths = list(dict.fromkeys(files))
    start = os.path.commonprefix(paths).rpartition("/")[0]
    paths.sort(key=lambda path: sha256(path[len(start) :].encode("utf-8", "surrogateescape")).digest())
    rows: dict[str, Counter[int]] = defaultdict(Counter)  # of each file, videos by label
    for file, entry in zip(files, entries, strict=True):
        rows[file][entry.label] += 1
    videos = Counter(entry.label for entry in entries)
    due = {label: max(1, int(share * number + 0.5)) for label, number in videos.items()}

    taken: set[str] = set()
    held: Counter[int] = Counter()

    def take(path: str) -> None:
        taken.add(path)
        held.update(rows[path])

    def leaves_some(path: str) -> bool:
        return all(held[label] + number < videos[label] for label, number in rows[path].items())

    for path in paths:
        if leaves_some(path) and all(held[label] + n <= due[label] for label, n in rows[path].items()):
            take(path)
    for path in paths:
        if path not in taken and leaves_some(path) and not all(held[label] for label in rows[path]):
            take(path)
    if not taken:
        raise UserError(
            f"held_out ({share:g}) must leave videos to validate on, and no class of {manifest.path} has two "
            "files, to train on the one"
        )
    sides: tuple[list[Entry], list[Entry]] = [], []
    for file, entry in zip(files, entries, strict=True):
        sides[file in taken].append(entry)
    kept, apart = (replace(manifest, entries=Entries.of(side)) for side in sides)
    return kept, apart
