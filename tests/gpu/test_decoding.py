"""NVDEC gives the frames that the processor gives, to a few grey levels."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from videonorm.data.decoding import available_decoders, open_video

PROBLEM = available_decoders()["torchcodec_cuda"]
pytestmark = pytest.mark.skipif(PROBLEM is not None, reason=f"torchcodec_cuda does not work: {PROBLEM}")


@pytest.fixture
def make_video():
    """That of tests/data, which this folder does not see."""
    path = Path(__file__).parents[1] / "data/conftest.py"
    spec = importlib.util.spec_from_file_location("data_conftest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_video


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("short_side", [None, 72])
def test_frames_equal_those_of_pyav(rotation, short_side, make_video, tmp_path):
    from videonorm.data.decoding.torchcodec import TorchcodecReader

    # NVDEC takes no pictures of less than 48 pixels a side, for some codecs 144.
    path = str(make_video(tmp_path / "video.mp4", height=144, width=192, rotation=rotation))
    with TorchcodecReader(path, device="cuda") as video, open_video(path) as reference:
        every = reference.read(range(reference.num_frames), short_side).astype(int)
        for indices in ([0], [39], [0, 7, 13, 14, 39], list(range(3, 40, 8))):
            frames = video.read(indices, short_side)
            assert frames.dtype == np.uint8 and frames.shape == every[indices].shape
            for frame, number in zip(frames.astype(int), indices, strict=True):
                distances = np.abs(every - frame).mean((1, 2, 3))
                assert distances.argmin() == number
                assert distances[number] < 8
