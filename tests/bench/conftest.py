"""Videos for the loading benchmarks, as small as they can be."""

import hashlib
import inspect
from pathlib import Path

import av
import pytest

from videonorm.bench import videos
from videonorm.data.decoding import packed
from videonorm.files import cache_folder

TINY = videos.Videos(num_videos=2, num_paths=4, num_frames=50, height=48, width=128)
MADE_BY = [*(Path(inspect.getfile(module)) for module in (videos, packed)), Path(__file__)]
KEY = hashlib.sha256(b"".join([av.__version__.encode(), *(path.read_bytes() for path in MADE_BY)]))
CACHE = cache_folder() / "tests" / f"bench_{KEY.hexdigest()[:16]}"


@pytest.fixture(scope="module")
def tiny():
    """``TINY``, made once for all sessions and their processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(CACHE))
        TINY.prepare(packed=[32])
        yield TINY
