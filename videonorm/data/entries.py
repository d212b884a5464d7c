"""The videos of a manifest, in a few arrays.

A list of 240,000 entries is a million objects: slow to send to another process, and in a forked one every
look at an entry writes to its reference count, so that page by page each process gets a copy of the list.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self, overload

import numpy as np
from numpy.typing import NDArray

UNLABELLED = -1


class Entry(NamedTuple):
    """One video, or one stretch of it where the seconds are given."""

    path: str  # absolute, or a URL
    label: int  # UNLABELLED in a manifest without labels
    start_seconds: float | None = None
    end_seconds: float | None = None


class Entries(Sequence[Entry]):
    """Entries that cannot be changed; each is made when it is asked for.

    Args:
        paths: N of them.
        labels: (N,) integers.
        seconds: (N, 2) start and end of each, NaN where there is no bound; by default none anywhere.
    """

    labels: NDArray[np.int64]

    def __init__(
        self,
        paths: Iterable[str],
        labels: Sequence[int] | NDArray[np.int64],
        seconds: NDArray[np.float64] | None = None,
    ) -> None:
        content = [path.encode("utf-8", "surrogateescape") for path in paths]
        self._paths = b"".join(content)
        self._ends = np.cumsum([0, *map(len, content)])
        self.labels = np.asarray(labels, dtype=np.int64)
        self._seconds = np.full((len(content), 2), np.nan) if seconds is None else seconds

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        entries = list(entries)
        seconds = np.array([entry[2:] for entry in entries], dtype=np.float64).reshape(-1, 2)  # None is NaN
        return cls([entry.path for entry in entries], [entry.label for entry in entries], seconds)

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> "Entries": ...
    def __getitem__(self, index: int | slice) -> "Entry | Entries":
        if isinstance(index, slice):
            return Entries.of(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]  # from the end too, and IndexError beyond
        path = self._paths[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")
        start, end = (None if np.isnan(bound) else bound for bound in self._seconds[index].tolist())
        return Entry(path, int(self.labels[index]), start, end)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash((self._paths, self.labels.tobytes()))
