"""Where a video lies: a path or a URL, what of it may be shown, and which version of the file is there."""

import re
from typing import NamedTuple

from videonorm.errors import UserError

_URL = re.compile(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)[^/?#@]*@")
_SECRET = re.compile(
    r"(?<=[?&])([^=&#]*(?:key|token|secret|sig|credential|passw)[^=&#]*)=[^&#]*", re.IGNORECASE
)


def is_remote(path: str) -> bool:
    """Whether a path is a URL, which fsspec reads: ``https://...``, ``s3://...``, ``gs://...``."""
    return _URL.match(path) is not None


def without_credentials(path: str) -> str:
    """A path as it may be shown: of a URL without its user, password and signature."""
    return _SECRET.sub(r"\1=***", _PASSWORD.sub("***@", path)) if is_remote(path) else path


class BadVideoError(UserError):
    """A video that cannot be used; ``reason`` completes the sentence "the video ..."."""

    def __init__(self, path: str, reason: str) -> None:
        path = without_credentials(path)
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class FileStatus(NamedTuple):
    """Together they tell one version of a file from another."""

    size: int  # bytes
    stamp: int  # time of the last change in ns; of a URL a hash of what its server says of the version
