"""The videos of a manifest, in a few arrays.

A list of 240,000 entries is a million objects: slow to send to another process, and in a forked one every
look at an entry writes to its reference count, so that page by page each process gets a copy of the list.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np

UNLABELLED = -1


class Entry(NamedTuple):
    """One video, or one stretch of it where the seconds are given."""

    path: str  # absolute, or a URL
    label: int  # UNLABELLED in a manifest without labels
    start_seconds: float | None = None
    end_seconds: float | None = None


class Entries(Sequence[Entry]):
    """Entries that cannot be changed; each is made when it is asked for."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        entries = list(entries)
        paths = [entry.path.encode("utf-8", "surrogateescape") for entry in entries]
        self._paths = np.frombuffer(b"".join(paths), dtype=np.uint8)
        self._stops = np.cumsum([len(path) for path in paths], dtype=np.int64)
        self._labels = np.array([entry.label for entry in entries], dtype=np.int64)
        # No bound is NaN.
        self._seconds = np.array([entry[2:] for entry in entries], dtype=np.float64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> "Entries": ...
    def __getitem__(self, index: int | slice) -> "Entry | Entries":
        if isinstance(index, slice):
            return Entries(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]  # from the end too, and IndexError beyond
        path = self._paths[self._stops[index - 1] if index else 0 : self._stops[index]].tobytes()
        start, end = (None if np.isnan(bound) else bound for bound in self._seconds[index].tolist())
        return Entry(path.decode("utf-8", "surrogateescape"), int(self._labels[index]), start, end)

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash((self._paths.tobytes(), self._labels.tobytes()))

    def __repr__(self) -> str:
        return f"Entries({list(self[:3])}{', ...' if len(self) > 3 else ''})"

    @property
    def labels(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """(N,)"""
        return self._labels
