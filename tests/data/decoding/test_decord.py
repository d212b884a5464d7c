"""decord gives the same frames, or refuses the file with the reason."""

import decord
import numpy as np
import pytest

from videonorm.data.decoding import BadVideoError, open_video

SHARED = [
    "b_frames.mp4",
    "one_gop.mp4",
    "intra.mp4",
    "late_start.mp4",
    "variable_rate.mp4",
    "upright.mp4",
    "vp9.webm",
]


@pytest.mark.parametrize("name", SHARED)
def test_frames_equal_those_of_pyav(name, videos, number_of):
    indices = [0, 7, 13, 14, 39]
    with open_video(videos(name), "decord") as video, open_video(videos(name), "pyav") as reference:
        assert video.num_frames == reference.num_frames
        np.testing.assert_array_equal(video.seconds, reference.seconds)
        ours, theirs = video.read(indices), reference.read(indices)
        assert np.abs(ours.astype(int) - theirs).mean() < 3
        turned = np.rot90(ours, -1, axes=(1, 2)) if name == "upright.mp4" else ours
        assert [number_of(frame) for frame in turned] == indices
        assert video.read([5], 48).shape == reference.read([5], 48).shape


@pytest.mark.parametrize(
    "name, reason",
    [
        ("hevc.mp4", "which reads HEVC wrongly or not at all; use decoder: pyav"),
        ("av1.mp4", "which reads AV1 wrongly or not at all"),
        ("mpeg2.mpg", "which returns wrong frames from MPEG-PS"),
    ],
)
def test_files_known_to_be_read_wrongly_are_refused(name, reason, videos):
    with pytest.raises(BadVideoError, match=reason):
        open_video(videos(name), "decord")


def test_narrow_pictures_are_refused(make_video, tmp_path):
    narrow = make_video(tmp_path / "narrow.mp4", count=3, width=48)
    with pytest.raises(BadVideoError, match="shorter than 64 pixels"):
        open_video(str(narrow), "decord")


def test_a_switched_bridge_does_no_harm(videos):
    decord.bridge.set_bridge("torch")
    try:
        with open_video(videos("b_frames.mp4"), "decord") as video:
            assert isinstance(video.read([3]), np.ndarray)
    finally:
        decord.bridge.reset_bridge()
