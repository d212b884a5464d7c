"""The README's commands that measure the machine or tell of it: `videonorm bench ...`, `videonorm doctor`."""

import pytest
from cached import content_cache
from readme import OF_THE_MACHINE, run

from videonorm.bench import videos
from videonorm.data.decoding import packed


@pytest.mark.parametrize("command", OF_THE_MACHINE)
def test_command(tmp_path, command):
    # Kernels and videos take half a minute to make.
    run(tmp_path, command, XDG_CACHE_HOME=str(content_cache("readme", videos, packed)))
