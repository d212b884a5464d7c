"""Videos behind URLs, read through fsspec: HTTP, S3, Google Cloud Storage and whatever else it knows."""

import hashlib
import io
from functools import lru_cache, partial
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from videonorm.data.decoding.location import BadVideoError, FileStatus, without_credentials
from videonorm.errors import UserError

NO_ANSWER_SECONDS = 30.0  # of an HTTP server; S3's and Google's clients have limits of their own
BLOCK_BYTES = 4 * 2**20  # a clip of ten seconds comes in one request, of a long video what is wanted
BLOCKS_KEPT = 4  # where sound and pictures lie apart, reading goes back and forth

# What a store says of a file's version, under the names that HTTP, S3, Google and Azure have for it.
_VERSION = (
    *("ETag", "etag", "Content-MD5", "Digest", "md5Hash", "generation", "VersionId"),
    *("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "created"),
)

_opened: set[AbstractFileSystem] = set()


def check_remote(url: str) -> FileStatus:
    """What ``check_file`` finds out about a URL, in one request.

    Raises:
        BadVideoError: it cannot be read.
        UserError: fsspec lacks a package for this kind of URL.
    """
    system, path = _file_system(url)
    try:
        info: dict[str, Any] = system.info(path)
    except Exception as error:  # every store raises its own
        raise BadVideoError(url, _reason(error)) from None
    if info.get("type") == "directory":
        raise BadVideoError(url, "is a directory")
    if info.get("size") is None:
        raise BadVideoError(url, "cannot be read: its server does not say how large it is")
    if not info["size"]:
        raise BadVideoError(url, "is empty (0 bytes)")
    version = repr([info.get(name) for name in _VERSION]).encode()
    stamp = int.from_bytes(hashlib.sha256(version).digest()[:7], "big")
    return FileStatus(int(info["size"]), stamp)


class RemoteFile(io.RawIOBase):
    """A file of ``size`` bytes behind a URL, fetched in blocks as they are read.

    Each block is a request of its own: nothing stays open that would have to be closed.
    """

    def __init__(self, url: str, size: int) -> None:
        super().__init__()
        self._url = url
        self._size = size
        self._at = 0
        self._block = lru_cache(BLOCKS_KEPT)(partial(_fetch, url, size))

    def read(self, size: int = -1) -> bytes:
        if self._at >= self._size:
            return b""
        number, offset = divmod(self._at, BLOCK_BYTES)
        block = self._block(number)
        content = block[offset:] if size < 0 else block[offset : offset + size]
        self._at += len(content)
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _fetch(url: str, size: int, number: int) -> bytes:
    """A block of a file of so many bytes."""
    start = number * BLOCK_BYTES
    end = min(start + BLOCK_BYTES, size)
    system, path = _file_system(url)
    try:
        content: bytes = system.cat_file(path, start=start, end=end)
    except Exception as error:  # every store raises its own
        raise BadVideoError(url, _reason(error)) from None
    if len(content) != end - start:
        raise BadVideoError(
            url, f"cannot be read: asked for {end - start} bytes, its server sent {len(content)}"
        )
    return content


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """What reads the URL, and the path that it goes by there. fsspec keeps one for each process and store."""
    try:
        options: dict[str, Any] = {}
        for protocol in ("http", "https"):  # as they may stand behind another, as in "simplecache::http://"
            if f"{protocol}://" in url:
                import aiohttp

                limit = aiohttp.ClientTimeout(sock_connect=NO_ANSWER_SECONDS, sock_read=NO_ANSWER_SECONDS)
                options[protocol] = {"client_kwargs": {"timeout": limit}}
        system, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise UserError(
            f"path ({without_credentials(url)}) must be of a kind that is installed; "
            f"pip install videonorm[remote] brings HTTP, S3 and GCS: {error}"
        ) from None
    except ValueError as error:
        raise BadVideoError(url, f"cannot be opened: {_text(error)}") from None
    # Kept for good: a forked process that lets go of its parent's would close the parent's connections.
    _opened.add(system)
    return system, path


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec calls whatever goes wrong over HTTP "not found"
    status = getattr(error, "status", None)  # of aiohttp
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "cannot be found" + (f": HTTP status {status}" if status else "")
    if status:
        return f"cannot be read: HTTP status {status}"
    if isinstance(error, TimeoutError):
        return "cannot be read: its server does not answer"
    return f"cannot be read: {_text(error)}"


def _text(error: BaseException) -> str:
    """Without the URL, which is in many messages, with what is secret in it."""
    text = str(error).strip().partition("\n")[0]
    return type(error).__name__ if not text or "://" in text else f"{type(error).__name__}: {text}"
