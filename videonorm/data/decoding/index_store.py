"""Packet indices on disk, so that a video is read through once and not once an epoch and worker.

An SQLite file with a row for each video. It rests on two promises of the file system: locks between processes
(POSIX record locks; where a network file system has them switched off, two machines may spoil the file) and
renames within a folder. A writer may be killed, and power may fail: the rows carry checksums, and a spoilt
file is put aside and made again. Only time is lost with the file; delete it whenever nobody uses it.
"""

import json
import os
import sqlite3
import warnings
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videonorm.data.decoding.packet_index import PacketIndex
from videonorm.data.decoding.reader import is_remote, without_credentials

_APPLICATION = 0x56494458  # "VIDX" in the header of the SQLite file says that it is ours
_FORMAT = 1  # of a row; rows of another are as if they were not there
_WAIT_SECONDS = 30  # for another process to finish writing, which takes it milliseconds


class IndexStore:
    """The packet indices of a set of videos, in one file that many processes may use at once.

    Every process opens it for itself when it first needs it; it can be pickled, and can be in use when
    the process forks. A file that is damaged or not of this class is renamed and a new one is made; where it
    can be neither read nor written, indices live in memory only. Each process that meets this says it once.

    Args:
        path: of the SQLite file; its folder must exist. Videos in that folder or below are known by their
            path from there, so that the folder can be moved; others by their whole path.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = os.path.abspath(path)
        self._reads = self._writes = True
        # By process, with the inode. Those inherited must be neither used nor closed.
        self._opened: dict[int, tuple[sqlite3.Connection, int]] = {}

    @classmethod
    def beside(cls, manifest: str | Path) -> "IndexStore | None":
        """The store of a manifest: ``NAME.packets.sqlite`` beside a file, ``.packets.sqlite`` in a folder.

        ``None`` where the manifest is neither a file nor a folder of this machine.
        """
        manifest = Path(manifest)
        if manifest.is_dir():
            return cls(manifest / ".packets.sqlite")
        return cls(manifest.with_name(f"{manifest.name}.packets.sqlite")) if manifest.is_file() else None

    def open(self) -> None:
        """Open the file now, so that a problem is said here and not by every worker started from here."""
        self._run("SELECT 1")

    def get(self, path: str, version: str) -> PacketIndex | None:
        """The index of a video, if it was put in for the same version (size, time of change) of the file."""
        query = "SELECT packets FROM videos WHERE path = ? AND version = ?"
        rows = self._run(query, self._key(path), version)
        if not rows:
            return None
        try:
            return decode(rows[0][0])
        except (zlib.error, ValueError, LookupError) as error:
            reason = f"a row is damaged ({error})"
        try:
            self._put_aside(reason)
        except OSError as error:
            self._do_without(error, writes=False)
        return None

    def put(self, path: str, version: str, index: PacketIndex) -> None:
        if self._writes:
            row = (self._key(path), version, encode(index))
            self._run("INSERT OR REPLACE INTO videos VALUES (?, ?, ?)", *row, writes=True)

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

    def _run(self, statement: str, *values: object, writes: bool = False) -> list[tuple[bytes]]:
        """The rows that a statement gives; none, after a warning, where the file cannot be used."""
        if not self._reads:
            return []
        try:
            try:
                return self._connection().execute(statement, values).fetchall()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_DBMOVED:
                    self.close()  # another process has put it aside
                elif isinstance(error, sqlite3.OperationalError):
                    raise
                else:
                    self._put_aside(str(error))
                return self._connection().execute(statement, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            self._do_without(error, writes)
            return []

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
        warnings.warn(
            f"The packet indices in {self.path} cannot be {use}: {error}. A video whose index is not in "
            f"memory is read through when it is opened.",
            stacklevel=2,
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


def encode(index: PacketIndex) -> bytes:
    """Pack what cannot be derived; zlib's checksum guards it."""
    header = {
        "container": index.container,
        "codec": index.codec,
        "width": index.width,
        "height": index.height,
        "time_base": list(index.time_base.as_integer_ratio()),
        "packets": len(index.packet_pts),
        "frames": len(index.pts),
        "keys_are_clean": index.keys_are_clean,
    }
    shown = np.zeros(len(index.packet_pts), dtype=bool)
    shown[index.position] = True
    flags = index.packet_is_key + 2 * index.packet_is_disposable + 4 * shown
    content = [
        json.dumps(header).encode() + b"\n",
        np.packbits(index.damaged).tobytes(),
        *(
            [_planes(index.seconds.view(np.int64))]
            if index.counted
            else [
                flags.astype(np.uint8).tobytes(),
                _planes(_differences(index.packet_dts)),
                _planes(_differences(index.packet_pts - index.packet_dts)),
            ]
        ),
    ]
    return bytes([_FORMAT]) + zlib.compress(b"".join(content))


def decode(blob: bytes) -> PacketIndex | None:
    """The index that was packed, ``None`` for one of another format; zlib.error or ValueError if damaged."""
    if blob[:1] != bytes([_FORMAT]):
        return None
    text, _, content = zlib.decompress(blob[1:]).partition(b"\n")
    header = json.loads(text)
    packets, frames = header["packets"], header["frames"]
    start = (frames + 7) // 8
    damaged = np.unpackbits(np.frombuffer(content[:start], dtype=np.uint8), count=frames).astype(bool)
    common = {name: header[name] for name in ("container", "codec", "width", "height")}
    common |= {"time_base": Fraction(*header["time_base"]), "damaged": damaged}
    if not packets:
        return PacketIndex.of_counted(seconds=_from_planes(content[start:]).view(np.float64), **common)
    flags = np.frombuffer(content[start : start + packets], dtype=np.uint8)
    numbers = _from_planes(content[start + packets : start + 9 * packets])
    dts = np.cumsum(numbers)
    pts = dts + np.cumsum(_from_planes(content[start + 9 * packets :]))
    return PacketIndex.of_packets(
        packet_pts=pts,
        packet_dts=dts,
        packet_is_key=flags & 1 > 0,
        packet_is_disposable=flags & 2 > 0,
        packet_is_shown=flags & 4 > 0,
        keys_are_clean=header["keys_are_clean"],
        **common,
    )


def _differences(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.diff(numbers, prepend=np.int64(0))


def _planes(numbers: NDArray[np.int64]) -> bytes:
    """All lowest bytes, then all second bytes...: what is alike lies together and packs well."""
    return numbers.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes()


def _from_planes(content: bytes) -> NDArray[np.int64]:
    planes = np.frombuffer(content, dtype=np.uint8).reshape(8, -1)
    return planes.T.copy().view("<i8")[:, 0].astype(np.int64)
