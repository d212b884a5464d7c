"""Where tests keep what takes long to make, for all sessions and their processes: by what it is made of."""

import hashlib
import inspect
from pathlib import Path
from types import ModuleType

import av

from videonorm.files import cache_folder


def content_cache(name: str, *modules: ModuleType) -> Path:
    """A folder for what these modules make, with this PyAV; other code has another folder."""
    content = [av.__version__.encode(), *(Path(inspect.getfile(module)).read_bytes() for module in modules)]
    return cache_folder() / "tests" / f"{name}_{hashlib.sha256(b''.join(content)).hexdigest()[:16]}"
