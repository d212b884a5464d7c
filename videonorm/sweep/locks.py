"""Who may work in a sweep's folder, on whatever machine: locks, which end with the processes that hold them.

At a time, the folder takes one sweep, or the shards of one division; one process, with those that it has
started, trains a run; one writes the table, one the report.
"""

import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from videonorm import files
from videonorm.errors import UserError
from videonorm.sweep.shards import Shard

SECONDS_TO_WAIT = 120.0  # more than a file server takes to let go of what a dead machine held
TABLE, REPORT = ".results.lock", ".report.lock"  # in the sweep's folder
RUN = ".sweep.lock"  # in a run's; `fit` has one of its own, from when it has read its options


@contextmanager
def holding(path: Path, wait_seconds: float = 0.0) -> Iterator[tuple[int, ...]]:
    """Hold a lock inside. Gives its descriptor, for processes that are to hold it too until they end.

    Raises:
        BlockingIOError: another process holds it, and has for ``wait_seconds``.
        OSError: the file cannot be made.
    """
    lock = _hold(path, wait_seconds)
    try:
        yield (lock.fileno(),) if lock else ()
    finally:
        if lock:
            lock.close()


def _hold(path: Path, wait_seconds: float) -> IO[str] | None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return files.hold(path)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        except OSError as error:
            if error.errno not in files.NO_LOCKS:
                raise
            warnings.warn(f"{path.parent} has no locks: nothing keeps two sweeps apart there", stacklevel=3)
            return None
        time.sleep(0.05)


def is_held(path: Path) -> bool:
    """Whether a process holds a lock; never where there are no locks."""
    try:
        return files.is_held(path)
    except OSError as error:
        if error.errno not in files.NO_LOCKS:
            raise
        return False


@contextmanager
def holding_shard(output: Path, shard: Shard) -> Iterator[bool]:
    """Hold a sweep's folder for one shard. Gives whether others work there now.

    Raises:
        UserError: the same shard works there, or one of another division.
    """
    try:
        lock = _hold(_of_shard(output, shard), wait_seconds=1.0)  # others may be looking whether it is held
    except BlockingIOError as error:
        same = "another sweep" if shard.count == 1 else f"which is {shard} too"
        raise UserError(f"{output} {error.strerror}, {same}; wait for it or give another --output") from error
    try:  # its own before a look at the others': of two that begin at once, one sees the other
        others = [other for other in _known(output) if other != shard and is_held(_of_shard(output, other))]
        for other in others:
            if other.count != shard.count:
                raise UserError(
                    f"{output} is in use by {other}, and {shard} would train the same runs; wait for it, or "
                    "give another --output"
                )
        yield bool(others)
    finally:
        if lock:
            lock.close()


def _of_shard(output: Path, shard: Shard) -> Path:
    return output / f".shard-{shard.index}-of-{shard.count}.lock"


def _known(output: Path) -> list[Shard]:
    """Shards that work in the folder, or have."""
    names = [re.fullmatch(r"\.shard-(\d+)-of-(\d+)\.lock", path.name) for path in output.iterdir()]
    return [Shard(int(name[1]), int(name[2])) for name in names if name]
