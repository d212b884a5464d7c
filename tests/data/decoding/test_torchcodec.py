"""torchcodec, where FFmpeg's libraries are installed beside it; test_frame_exactness.py has the frames."""

import numpy as np
import pytest
import torch

from videonorm.data.decoding import available_decoders, open_video
from videonorm.data.decoding.reader import scale
from videonorm.errors import UserError

PROBLEM = available_decoders()["torchcodec"]
needs_torchcodec = pytest.mark.skipif(PROBLEM is not None, reason=f"torchcodec does not load: {PROBLEM}")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")


@needs_torchcodec
@pytest.mark.parametrize("name", ["b_frames.mp4", "variable_rate.mp4", "upright.mp4", "hevc.mp4"])
def test_good_files_are_not_refused(name, videos):
    from videonorm.data.decoding.torchcodec import TorchcodecReader

    indices = [0, 7, 13, 14, 39]
    with TorchcodecReader(videos(name)) as video, open_video(videos(name)) as reference:
        np.testing.assert_array_equal(video.read(indices), reference.read(indices))


@needs_torchcodec
@pytest.mark.parametrize(
    "name, reason",
    [
        ("mpeg4.avi", "is not proved to read MPEG4 in AVI files right"),
        ("by_dts.mkv", "needs timestamps to find frames"),
        ("intra_refresh.mp4", "returns wrong frames where pictures are refreshed bit by bit"),
        ("transport.ts", "is not proved to read H264 in MPEGTS files right"),
    ],
)
def test_files_known_to_be_read_wrongly_are_refused(name, reason, videos):
    from videonorm.data.decoding.fallback import RefusalError
    from videonorm.data.decoding.torchcodec import TorchcodecReader

    with pytest.raises(RefusalError, match=reason):
        TorchcodecReader(videos(name))


@pytest.mark.skipif(PROBLEM is None, reason="torchcodec works here")
@pytest.mark.parametrize("decoder", ["torchcodec", "torchcodec_cuda"])
def test_missing_libraries_are_an_error_that_says_so(decoder, videos):
    with pytest.raises(UserError, match=rf"decoder \({decoder}\) must be installed and working: .*"):
        open_video(videos("b_frames.mp4"), decoder)


@needs_torchcodec
@no_gpu
def test_without_a_gpu_cuda_is_refused(videos):
    with pytest.raises(UserError, match=r"decoder \(torchcodec_cuda\) must be .* torch finds no GPU"):
        open_video(videos("b_frames.mp4"), "torchcodec_cuda")


@needs_torchcodec
def test_cuda_is_refused_in_a_process_forked_from_one_that_uses_it(videos, monkeypatch):
    from videonorm.data.decoding.torchcodec import TorchcodecReader

    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(
        UserError, match="in a process that can use CUDA: Cannot re-initialize CUDA in forked"
    ):
        TorchcodecReader(videos("b_frames.mp4"), device="cuda")


@needs_torchcodec
def test_scaling_on_the_gpu_is_like_that_on_the_host(videos):
    from videonorm.data.decoding.torchcodec import scale_on_device

    with open_video(videos("upright.mp4")) as video:
        frames = video.read(range(20))
    for side in (32, 48, 64, 96):
        scaled = scale_on_device(torch.from_numpy(frames), side)
        assert scaled.dtype == torch.uint8
        expected = scale(frames, side)
        assert scaled.shape == expected.shape
        assert np.abs(scaled.numpy().astype(int) - expected).mean() < 6
