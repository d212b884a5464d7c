import os
from fractions import Fraction

import av
import numpy as np
import pytest

from videonorm.data.decoding import BadVideoError, open_video
from videonorm.data.decoding.container import check_file
from videonorm.data.decoding.reader import frames_between


def test_another_version_of_a_file_has_another_status(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"first")
    first = check_file(str(path))
    assert (first.size, first.stamp) == (5, path.stat().st_mtime_ns)
    os.utime(path, ns=(0, first.stamp + 1))
    assert check_file(str(path)).stamp == first.stamp + 1


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_pixels_count_as_square(decoder, tmp_path):
    path = str(tmp_path / "anamorphic.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for number in range(5):
            picture = np.full((64, 96, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    with av.open(path) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    with open_video(path, decoder) as video:
        assert video.read([0, 4]).shape == (2, 64, 96, 3)
        assert video.read([0], 32).shape == (1, 32, 48, 3)


@pytest.mark.parametrize(
    "start, end, frames",
    [
        (None, None, (0, 25)),
        (0.4, 0.8, (10, 20)),
        (0.4000001, 0.8000001, (10, 20)),  # as times are written, rounded
        (0.41, None, (11, 25)),
        (None, 0.01, (0, 1)),
        (0.96, 9.0, (24, 25)),
    ],
)
def test_the_frames_of_a_stretch(start, end, frames):
    assert frames_between("a.mp4", np.arange(25) / 25, start, end) == frames


def test_a_stretch_without_frames():
    message = r"has no frame between start_seconds \(1.0\) and end_seconds \(None\)"
    with pytest.raises(BadVideoError, match=message):
        frames_between("a.mp4", np.arange(25) / 25, 1.0, None)
