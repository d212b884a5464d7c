"""Videos for the loading benchmarks, as small as they can be."""

import sys

import pytest
from cached import content_cache

from videonorm.bench import videos
from videonorm.data.decoding import packed

TINY = videos.Videos(num_videos=2, num_paths=4, num_frames=50, height=48, width=128)
CACHE = content_cache("bench", videos, packed, sys.modules[__name__])


@pytest.fixture(scope="module")
def tiny():
    """``TINY``, made once for all sessions and their processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(CACHE))
        TINY.prepare(packed=[32])
        yield TINY
