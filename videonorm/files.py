"""How a file is written: aside, synced to the disk, then renamed. A reader finds all of it or what was there.

A process that is killed, a full disk, a machine that loses power: none of them leaves half a file under its
name. Everything that videonorm and data_prep write goes through here.
"""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def cache_folder() -> Path:
    """Where files are kept that can be made again: `~/.cache/videonorm`, or below `XDG_CACHE_HOME`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "videonorm"


NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what a file system that has none answers


def sha256(path: str | Path) -> str:
    """The hash of what a file holds, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_file(path: str | Path, made_in: Path | None = None) -> Iterator[Path]:
    """A path beside ``path``, with its suffix, for something that writes files by name; made into ``path``.

    An exception inside leaves what was there before. A link stays one: the file that it names is replaced.
    The folder is made if need be.

    Args:
        made_in: an existing folder on the same disk, in place of that of ``path``: what a process that is
            killed leaves is then where the caller can clear it away.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    target = Path(os.path.realpath(path))
    with _named(path, made_in):
        _check_ordinary(target, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = _aside(made_in / target.name if made_in else target)
        try:
            yield aside
            _sync(aside)
            os.replace(aside, target)
            _sync(target.parent)
        finally:
            aside.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Find out whether a file can be written, before the work whose result it is to hold.

    Nothing is made or changed: what proves it is written to the nearest folder that exists, and removed.

    Raises:
        OSError: it cannot; the error names ``path``.
    """
    target = Path(os.path.realpath(path))
    _check_ordinary(target, path)
    folder = next(parent for parent in target.parents if os.path.lexists(parent))
    aside = _aside(folder / target.name)
    try:
        aside.write_bytes(b"0")
        _sync(aside)  # a full disk may only say so now
        aside.unlink()
    except OSError as error:
        if folder.is_dir():
            aside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def open_new(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """``new_file``, open for writing: "w" or "wb". Text is UTF-8, and takes the name of any video."""
    newline, encoding, errors = (None,) * 3 if "b" in mode else ("", "utf-8", "surrogateescape")
    with (
        new_file(path) as aside,
        open(aside, mode, newline=newline, encoding=encoding, errors=errors) as file,
    ):
        yield file


def write(path: str | Path, content: str | bytes) -> None:
    """Write a whole file; see ``open_new``."""
    with open_new(path, "w" if isinstance(content, str) else "wb") as file:
        file.write(content)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a record; a number that is not finite, such as the loss of a run that diverged, becomes null."""
    write(path, json.dumps(_finite(content), indent=2) + "\n")


# What a spreadsheet takes for a formula.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def to_cell(text: str) -> str:
    """Text for a CSV file that a spreadsheet may open: what it would compute gets an apostrophe before it.

    So does what has one already, so that ``from_cell`` gives each text back. Numbers stay as they are.
    """
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def from_cell(text: str) -> str:
    """The text that ``to_cell`` made a cell of."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder beside ``path`` to write into, which takes its name at the end and vanishes on an error.

    Raises:
        OSError: it cannot be written, or ``path`` exists and is no empty folder.
    """
    target = Path(os.path.realpath(path))
    with _named(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = _aside(target)
        aside.mkdir()
        try:
            yield aside
            for folder, _, files in os.walk(aside):
                for name in files:
                    _sync(Path(folder) / name)
                _sync(Path(folder))
            os.replace(aside, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _check_ordinary(target: Path, path: str | Path) -> None:
    if target.exists() and not target.is_file():  # a device, say: it would be replaced by a file
        raise OSError(errno.EINVAL, "is no ordinary file", str(path))


def hold(path: str | Path) -> IO[str]:
    """Lock a file until it is closed, or this process ends in whatever way.

    Between machines it holds where the file system carries locks to its server: NFS does unless it is mounted
    with ``nolock`` or ``local_lock``, and then keeps apart the processes of one machine only.

    Raises:
        BlockingIOError: another process holds it; the error has its number.
        OSError: the file cannot be made, or its file system has no locks.
    """
    import fcntl  # not on Windows

    with _named(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            if isinstance(error, BlockingIOError):
                raise BlockingIOError(error.errno, f"is in use by process {holder}", str(path)) from error
            raise
    lock.truncate(0)
    print(os.getpid(), file=lock, flush=True)
    return lock


def is_held(path: str | Path) -> bool:
    """Whether a process holds a lock of ``hold``. Any number may look at once; who takes it then may fail.

    Raises:
        OSError: the file cannot be read, or its file system has no locks.
    """
    import fcntl

    try:
        with open(path, encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _aside(target: Path) -> Path:
    # Two machines may share the folder, so a process's number would not do. Names end at 255 bytes.
    return target.with_name(f".{secrets.token_hex(4)}.{target.name[-60:]}")


def _sync(path: Path) -> None:
    """Have the disk hold the bytes of a file, or the names in a folder, before what follows."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _named(path: str | Path, made_in: Path | None = None) -> Iterator[None]:
    """Errors about files beside ``path`` or in ``made_in`` name it instead: the user knows no others."""
    folders = (os.path.dirname(os.path.realpath(path)), str(made_in))
    try:
        yield
    except OSError as error:
        of = error.filename
        if error.errno is not None and (of is None or os.path.dirname(os.fsdecode(of)) in folders):
            # A new one: FFmpeg's errors, through PyAV, are OSErrors that take no other name.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(of) for of in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
