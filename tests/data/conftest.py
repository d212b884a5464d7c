"""Videos in which every frame shows its own number, so that a test can see which frame it was given."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

COUNT = 40  # frames in each video


def numbered_picture(number: int, height: int, width: int) -> np.ndarray:
    """Eight bars, the bits of the number; below them a moving texture, which gives prediction work to do."""
    picture = np.zeros((height, width, 3), np.uint8)
    columns = np.arange(width) * 8 // width
    picture[: height // 2] = ((number >> (7 - columns)) & 1)[:, None] * 220 + 16
    texture = np.random.default_rng(0).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)[: height - height // 2, :width]
    picture[height // 2 :] = np.roll(texture, (number, 2 * number), (0, 1))
    return picture


def shown_number(picture: np.ndarray) -> int:
    height, width = picture.shape[:2]
    bars = picture[height // 8 : height * 3 // 8].mean((0, 2))
    bits = [bars[(2 * i + 1) * width // 16] > 126 for i in range(8)]
    return int(sum(bit << (7 - i) for i, bit in enumerate(bits)))


def write_video(
    path: Path,
    count: int = COUNT,
    *,
    height: int = 64,
    width: int = 64,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    b_frames: int = 2,
    times: list[int] | None = None,
    rotation: int = 0,
    muxer: dict[str, str] | None = None,
    **codec_options: str,
) -> Path:
    """25 frames a second, or at the ``times`` given in units of 1/25 s."""
    if codec == "libx264":
        codec_options = {"preset": "veryfast", "crf": "18", **codec_options}
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=25, options=codec_options)
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, height, width), "rgb24")
            frame.pts = times[number] if times else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


VIDEOS: dict[str, dict[str, Any]] = {
    "b_frames.mp4": {},
    "open_gop.mp4": {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"},
    "one_gop.mp4": {"gop": 250, "x264-params": "scenecut=0"},
    "intra.mp4": {"gop": 1, "b_frames": 0},
    "intra_refresh.mp4": {"b_frames": 0, "x264-params": "intra-refresh=1:keyint=8"},
    "late_start.mp4": {"times": list(range(250, 250 + COUNT))},
    "variable_rate.mp4": {"times": np.cumsum(np.random.default_rng(3).integers(1, 9, COUNT)).tolist()},
    "odd_size.mp4": {"height": 65, "width": 77, "pix_fmt": "yuv444p"},
    "ten_bit.mkv": {"pix_fmt": "yuv420p10le"},
    "fragments.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "upright.mp4": {"height": 64, "width": 80, "rotation": 90},
    "transport.ts": {},
    "vp9.webm": {"codec": "libvpx-vp9", "b_frames": 0, "deadline": "realtime", "cpu-used": "8", "b": "1M"},
    "vp8.webm": {"codec": "libvpx", "b_frames": 0, "deadline": "realtime", "cpu-used": "8", "b": "1M"},
    "hevc.mp4": {"codec": "libx265", "preset": "ultrafast", "x265-params": "log-level=none"},
    "av1.mp4": {"codec": "libsvtav1", "b_frames": 0, "preset": "11", "crf": "20"},
    "mpeg4.avi": {"codec": "mpeg4", "b": "2M"},
    "mpeg2.mpg": {"codec": "mpeg2video", "b": "4M"},
}


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``videos(name)`` is the path of one of ``VIDEOS``, made when first asked for."""
    folder = tmp_path_factory.mktemp("videos")

    def path_of(name: str) -> str:
        path = folder / name
        if not path.exists():
            write_video(path, **VIDEOS[name])
        return str(path)

    return path_of


@pytest.fixture(scope="session")
def decode_in_order() -> Callable[[str], np.ndarray]:
    """Every frame of a file (N, H, W, 3), decoded from first to last by FFmpeg, turned upright."""

    def decode(path: str) -> np.ndarray:
        with av.open(path) as container:
            frames = [
                np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                for frame in container.decode(container.streams.best("video"))
            ]
        return np.stack(frames)

    return decode


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    return write_video


@pytest.fixture(scope="session")
def number_of() -> Callable[[np.ndarray], int]:
    return shown_number


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[None]:
    """Without the right of root to read and write everything."""
    if os.geteuid():
        yield
        return
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o711)
    os.seteuid(65534)
    yield
    os.seteuid(0)
