"""decord refuses what it reads wrongly, and pyav reads it; test_frame_exactness.py has the frames."""

import decord
import numpy as np
import pytest

from videonorm.data.decoding import open_video
from videonorm.data.decoding.decord import DecordReader
from videonorm.data.decoding.fallback import FallbackReader, RefusalError


@pytest.mark.parametrize(
    "name", ["b_frames.mp4", "one_gop.mp4", "variable_rate.mp4", "upright.mp4", "vp9.webm"]
)
def test_good_files_are_not_refused(name, videos):
    with open_video(videos(name), "decord") as video:
        video.read([0, 7, 39])
        assert isinstance(video, FallbackReader) and isinstance(video.reader, DecordReader)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("hevc.mp4", "is not proved to read HEVC in MP4 files right"),
        ("av1.mp4", "is not proved to read AV1 in MP4 files right"),
        ("mpeg2.mpg", "is not proved to read MPEG2VIDEO in MPEG files right"),
        ("mpeg4.avi", "is not proved to read MPEG4 in AVI files right"),
        ("transport.ts", "is not proved to read H264 in MPEGTS files right"),
        ("open_gop.mp4", "returns wrong frames where pictures refer to some before a keyframe"),
        ("intra_refresh.mp4", "returns wrong frames where pictures refer to some before a keyframe"),
    ],
)
def test_files_known_to_be_read_wrongly_are_refused(name, reason, videos):
    with pytest.raises(RefusalError, match=reason):
        DecordReader(videos(name))


def test_narrow_pictures_are_refused(make_video, tmp_path):
    narrow = make_video(tmp_path / "narrow.mp4", count=3, width=48)
    with pytest.raises(RefusalError, match="shorter than 64 pixels"):
        DecordReader(str(narrow))


def test_a_switched_bridge_does_no_harm(videos):
    decord.bridge.set_bridge("torch")
    try:
        with open_video(videos("b_frames.mp4"), "decord") as video:
            assert isinstance(video.read([3]), np.ndarray)
    finally:
        decord.bridge.reset_bridge()
