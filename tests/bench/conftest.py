"""Videos for the loading benchmarks, as small as they can be."""

import pytest

from videonorm.bench.videos import Videos

TINY = Videos(num_videos=2, num_paths=4, num_frames=50, height=48, width=128)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """``TINY``, made in a cache of this test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        TINY.prepare(packed=[32])
        yield TINY
