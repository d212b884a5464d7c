"""A file that a decoder refuses is read by pyav, and a warning says so once for each decoder and reason."""

import warnings

import numpy as np
import pytest

from videonorm.data.decoding import BadVideoError, fallback, open_video
from videonorm.data.decoding.fallback import FallbackReader, RefusalError
from videonorm.data.decoding.pyav import PyAVReader
from videonorm.data.decoding.reader import Reader


class Stubborn(Reader):
    """Fails at whatever it is asked for."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.seconds = np.arange(40) / 25
        self.closed = False

    def read(self, indices, short_side=None):
        raise RefusalError("cannot decode it", "at 0x7f\nand more")

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(fallback, "_said", set())


def test_pyav_reads_what_is_refused_when_opened(videos, make_video, tmp_path):
    with pytest.warns(
        UserWarning, match="hevc.mp4 is read by pyav, for decord is not proved to read HEVC in MP4 f"
    ):
        video = open_video(videos("hevc.mp4"), "decord")
    assert isinstance(video, PyAVReader)
    video.close()
    narrow = make_video(tmp_path / "narrow.mp4", count=3, width=48)
    with pytest.warns(UserWarning, match="narrow.mp4 is read by pyav, for decord mistakes the padding"):
        open_video(str(narrow), "decord").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_video(videos("hevc.mp4"), "decord").close()  # the reason is known


def test_pyav_reads_what_is_refused_when_read(videos, decode_in_order):
    path = videos("b_frames.mp4")
    stubborn = Stubborn(path)
    expected = decode_in_order(path)
    with FallbackReader(stubborn, "decord", None) as video:
        with pytest.warns(UserWarning, match="for decord cannot decode it: at 0x7f. Others are not"):
            np.testing.assert_array_equal(video.read([3, 30]), expected[[3, 30]])
        assert stubborn.closed
        np.testing.assert_array_equal(video.read([5]), expected[[5]])


def test_a_file_that_disappears_before_it_is_refused_is_a_bad_video(make_video, tmp_path):
    path = make_video(tmp_path / "gone.mp4", count=3)
    with FallbackReader(Stubborn(str(path)), "decord", None) as video:
        path.unlink()
        with pytest.raises(BadVideoError, match="cannot be found"):
            video.read([0])
    assert isinstance(video.reader, Stubborn)


def test_a_bad_video_is_no_refusal(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadVideoError, match="cannot be opened"):
            open_video(str(path), "decord")


def test_only_pyav_reads_urls(monkeypatch):
    opened = []
    monkeypatch.setattr("videonorm.data.decoding.PyAVReader", lambda path, store: opened.append(path))
    with pytest.warns(UserWarning, match="v.mp4 is read by pyav, for decord reads local files only"):
        open_video("https://user:secret@example.org/v.mp4", "decord")
    assert opened == ["https://user:secret@example.org/v.mp4"]
