"""torchcodec gives the same frames, where FFmpeg's libraries are installed beside it."""

import numpy as np
import pytest

from videonorm.data.decoding import BadVideoError, available_decoders, open_video
from videonorm.errors import UserError

PROBLEM = available_decoders()["torchcodec"]


@pytest.mark.skipif(PROBLEM is not None, reason=f"torchcodec does not load: {PROBLEM}")
@pytest.mark.parametrize("name", ["b_frames.mp4", "variable_rate.mp4", "upright.mp4", "hevc.mp4"])
def test_frames_equal_those_of_pyav(name, videos):
    indices = [0, 7, 13, 14, 39]
    with open_video(videos(name), "torchcodec") as video, open_video(videos(name), "pyav") as reference:
        np.testing.assert_array_equal(video.read(indices), reference.read(indices))
        assert video.read([5], 48).shape == reference.read([5], 48).shape


@pytest.mark.skipif(PROBLEM is not None, reason=f"torchcodec does not load: {PROBLEM}")
def test_file_without_timestamps_is_refused(videos):
    with pytest.raises(BadVideoError, match="which needs timestamps to find frames; use decoder: pyav"):
        open_video(videos("mpeg4.avi"), "torchcodec")


@pytest.mark.skipif(PROBLEM is None, reason="torchcodec works here")
def test_missing_libraries_are_an_error_that_says_so(videos):
    with pytest.raises(UserError, match=r"decoder \(torchcodec\) must be installed and working: .*"):
        open_video(videos("b_frames.mp4"), "torchcodec")
