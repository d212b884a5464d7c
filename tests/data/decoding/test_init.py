import pytest

from videonorm.data.decoding import available_decoders, check_decoder, open_video
from videonorm.data.decoding.pyav import PyAVReader
from videonorm.errors import UserError


def test_auto_is_pyav(videos):
    with open_video(videos("b_frames.mp4")) as video:
        assert isinstance(video, PyAVReader)


def test_available_decoders_give_reasons():
    decoders = available_decoders()
    assert list(decoders) == ["pyav", "torchcodec", "torchcodec_cuda", "decord"]
    assert decoders["pyav"] is None
    assert all(reason is None or "\n" not in reason for reason in decoders.values())


def test_unknown_decoder():
    with pytest.raises(
        UserError, match=r"decoder \(opencv\) must be auto, pyav, torchcodec, torchcodec_cuda or decord"
    ):
        check_decoder("opencv")
