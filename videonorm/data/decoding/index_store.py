"""Packet indices, kept so that a video is read through once and not once an epoch and worker.

Those used last are in memory; all are on disk, in an SQLite file with a row for each video. It rests on two
promises of the file system: locks between processes (POSIX record locks; where a network file system has them
switched off, two machines may spoil the file) and renames within a folder. A writer may be killed, and power
may fail: the rows carry checksums, and a spoilt file is put aside and made again. Only time is lost with the
file; delete it whenever nobody uses it.
"""

import mmap
import os
import sqlite3
import warnings
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from av.container import InputContainer

from videonorm.data.decoding.container import check_file, open_container
from videonorm.data.decoding.location import FileStatus, is_remote, without_credentials
from videonorm.data.decoding.packet_index import PacketIndex, build_index
from videonorm.files import cache_folder
from videonorm.machine import is_first_process

T = TypeVar("T")

_APPLICATION = 0x56494458  # "VIDX" in the header of the SQLite file says that it is ours
_WAIT_SECONDS = 30  # for another process to finish writing, which takes it milliseconds

_said = mmap.mmap(-1, 1)  # whether this process, or one that it was forked from or has forked, has complained


class _Recent:
    """The indices used last, up to a number of frames in all; 20,000 frames take about 2 MB."""

    def __init__(self, max_frames: int) -> None:
        self._max_frames = max_frames
        self._frames = 0
        self._indices: dict[tuple[str, FileStatus], PacketIndex] = {}  # the one used last at the end

    def take(self, key: tuple[str, FileStatus]) -> PacketIndex | None:
        index = self._indices.pop(key, None)
        self._frames -= len(index.pts) if index else 0
        return index

    def put(self, key: tuple[str, FileStatus], index: PacketIndex) -> None:
        self.take(key)  # another thread's
        self._indices[key] = index
        self._frames += len(index.pts)
        while self._frames > self._max_frames:
            self.take(next(iter(self._indices)))


_recent = _Recent(max_frames=20_000)


def packet_index(
    path: str,
    store: "IndexStore | None" = None,
    container: InputContainer | None = None,
    status: FileStatus | None = None,
) -> PacketIndex:
    """The index of a file: the one in memory for the files used last, the one stored, or else a new one.

    Args:
        store: where it is kept for other processes and later runs. Bad videos are not.
        container: the file, just opened, if it is open already.
        status: of a file that is checked already.

    Raises:
        BadVideoError: not a video, no frames, or truncated.
    """
    status = status or check_file(path)
    version = f"{status.size} {status.stamp}"
    index = _recent.take((path, status))
    if index is None and store:
        index = store.get(path, version)
    if index is None:
        with nullcontext(container) if container else open_container(path, status) as opened:
            index = build_index(path, opened)
        if store:
            store.put(path, version, index)
    _recent.put((path, status), index)
    return index


class IndexStore:
    """The packet indices of a set of videos, in one file that many processes may use at once.

    Every process opens it for itself when it first needs it; it can be pickled, and can be in use when
    the process forks. A file that is damaged or not of this class is renamed and a new one is made; where it
    can be neither read nor written, indices live in memory only, which is said once.

    Args:
        path: of the SQLite file; its folder must exist. Videos in that folder or below are known by their
            path from there, so that the folder can be moved; others by their whole path.
        other: another such file, which is only read.
    """

    def __init__(self, path: str | Path, other: str | Path | None = None) -> None:
        self.path = os.path.abspath(path)
        self._other = IndexStore(other) if other else None
        self._reads = self._writes = True
        # By process, with the inode. Those inherited must be neither used nor closed.
        self._opened: dict[int, tuple[sqlite3.Connection, int]] = {}

    @classmethod
    def beside(cls, manifest: str | Path) -> "IndexStore | None":
        """The store of a manifest: ``NAME.packets.sqlite`` beside a file, ``.packets.sqlite`` in a folder.

        Where nothing may be written there, what is there is read, and new indices go to ``packets.sqlite`` in
        the cache folder: a row a video, for all such manifests. ``None`` where the manifest is neither a file
        nor a folder of this machine, or where there is no place for its indices, which is said once.
        """
        manifest = Path(manifest)
        if manifest.is_dir():
            path = manifest / ".packets.sqlite"
        elif manifest.is_file():
            path = manifest.with_name(f"{manifest.name}.packets.sqlite")
        else:
            return None
        if _may_be_written(path):
            return cls(path)
        instead = cache_folder() / "packets.sqlite"
        there = path if path.exists() else None
        if _may_be_written(instead):
            return cls(instead, there)
        _say_once(
            f"The packet indices can be kept neither in {path} nor in {instead}: neither may be written."
        )
        store = cls(there) if there else None
        if store:
            store._writes = False
        return store

    def get(self, path: str, version: str) -> PacketIndex | None:
        """The index of a video, if it was put in for the same version (size, time of change) of the file."""

        def read(connection: sqlite3.Connection) -> PacketIndex | None:
            query = "SELECT packets FROM videos WHERE path = ? AND version = ?"
            rows = connection.execute(query, (self._key(path), version)).fetchall()
            try:
                return PacketIndex.from_bytes(rows[0][0]) if rows else None
            except (zlib.error, ValueError, LookupError) as error:
                raise sqlite3.DatabaseError(f"a row is damaged ({error})") from None

        index = self._use(read) if self._reads else None
        return self._other.get(path, version) if index is None and self._other else index

    def put(self, path: str, version: str, index: PacketIndex) -> None:
        if self._writes:
            row = (self._key(path), version, index.to_bytes())
            statement = "INSERT OR REPLACE INTO videos VALUES (?, ?, ?)"
            self._use(lambda connection: connection.execute(statement, row), writes=True)

    def close(self) -> None:
        """Close the file in this process; the next use opens it again."""
        if opened := self._opened.pop(os.getpid(), None):
            opened[0].close()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": {}}

    def _key(self, path: str) -> bytes:
        if is_remote(path):
            return os.fsencode(without_credentials(path))
        whole = os.path.abspath(path)
        folder = os.path.join(os.path.dirname(self.path), "")
        return os.fsencode(whole.removeprefix(folder))

    def _use(self, use: Callable[[sqlite3.Connection], T], writes: bool = False) -> T | None:
        """What becomes of the file; ``None``, after a warning, where it cannot be used."""
        try:
            try:
                return use(self._connection())
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_DBMOVED:
                    self.close()  # another process has put it aside
                elif isinstance(error, sqlite3.OperationalError):
                    raise
                else:
                    self._put_aside(str(error))
                return use(self._connection())
        except (sqlite3.Error, OSError) as error:
            self._do_without(error, writes)
            return None

    def _connection(self) -> sqlite3.Connection:
        if opened := self._opened.get(os.getpid()):
            return opened[0]
        connection = sqlite3.connect(
            self.path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._opened[os.getpid()] = connection, os.stat(self.path).st_ino
        try:
            # Without waiting for the disk: a killed writer does no harm, a power failure may.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -256")  # KiB: hardly a row is asked for twice
            if _application(connection) != _APPLICATION:
                _create(connection)
        except sqlite3.OperationalError:
            self.close()
            raise
        return connection

    def _put_aside(self, reason: str) -> None:
        inode = self._opened[os.getpid()][1]
        self.close()
        if not os.path.exists(self.path) or os.stat(self.path).st_ino != inode:
            return  # another process has done it
        number = 1
        while os.path.exists(aside := f"{self.path}.bad{number}"):
            number += 1
        # The journal first: it must not be applied to the next file.
        for suffix in ("-journal", "-wal", "-shm", ""):
            if os.path.exists(self.path + suffix):
                os.replace(self.path + suffix, aside + suffix)
        warnings.warn(
            f"{self.path} cannot serve for packet indices: {reason}. Renamed to {aside}; a new one is made.",
            stacklevel=2,
        )

    def _do_without(self, error: Exception, writes: bool) -> None:
        self._writes = False
        self._reads = writes  # what cannot be written may still be read
        use = "added to" if writes else "used"
        _say_once(f"The packet indices in {self.path} cannot be {use}: {error}.")


def _may_be_written(path: Path) -> bool:
    """Whether a file may be made or changed; SQLite puts another beside it. Makes the cache folder."""
    folder = path.parent
    try:
        if folder == cache_folder():
            folder.mkdir(parents=True, exist_ok=True)
        effective = os.access in os.supports_effective_ids
        return all(os.access(of, os.W_OK, effective_ids=effective) for of in (folder, path) if of.exists())
    except OSError:
        return False


def _say_once(sentence: str) -> None:
    if not _said[0] and is_first_process():
        _said[0] = True
        warnings.warn(
            f"{sentence} A video whose index is not in memory is read through when it is opened.",
            stacklevel=4,
        )


def _application(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("PRAGMA application_id").fetchone()[0]
    return number


def _create(connection: sqlite3.Connection) -> None:
    """Make the table in a new file, which several processes may be about to do."""
    connection.execute("BEGIN IMMEDIATE")
    if _application(connection) != _APPLICATION:
        if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise sqlite3.DatabaseError("it holds somebody else's tables")
        connection.execute(
            "CREATE TABLE videos (path BLOB PRIMARY KEY, version TEXT NOT NULL, packets BLOB NOT NULL)"
        )
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute("COMMIT")
