"""Videos in which every frame shows its own number, so that a test can see which frame it was given."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type
from odd_videos import ODD

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


def laid(pictures: np.ndarray, matrix: Sequence[float]) -> np.ndarray:
    """Pictures (..., H, W, 3), each pixel put where one of the eight matrices that lose none says."""
    a, b, c, d = np.sign(matrix).astype(int)
    y, x = np.indices(pictures.shape[-3:-1])
    column, row = a * x + c * y, b * x + d * y
    column, row = column - column.min(), row - row.min()
    shown = np.empty((*pictures.shape[:-3], row.max() + 1, column.max() + 1, 3), pictures.dtype)
    shown[..., row, column, :] = pictures
    return shown


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
    matrix: tuple[float, ...] | None = None,
    muxer: dict[str, str] | None = None,
    **codec_options: str,
) -> Path:
    """25 frames a second, or at the ``times`` given in units of 1/25 s.

    Args:
        matrix: a, b, c, d of the display matrix: the pixel (x, y) is shown at (a x + c y, b x + d y).
    """
    if codec == "libx264":
        codec_options = {"preset": "veryfast", "crf": "18", **codec_options}
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=25, options=codec_options)
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix:
            a, b, c, d = (round(2**16 * entry) for entry in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 2**30])
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, height, width), "rgb24")
            frame.pts = times[number] if times else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def plain_decode(path: str) -> np.ndarray:
    """Every frame of a file (N, H, W, 3), decoded from first to last by FFmpeg, laid as the first says."""
    with av.open(path) as container:
        frames = list(container.decode(container.streams.best("video")))
    matrices = [data for data in frames[0].side_data if data.type == Type.DISPLAYMATRIX]
    matrix = np.frombuffer(bytes(matrices[0]), np.int32)[[0, 1, 3, 4]] if matrices else (1, 0, 0, 1)
    return laid(np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), matrix)


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
    """``videos(name)`` is the path of one of ``VIDEOS`` or ``ODD``, made when first asked for."""
    folder = tmp_path_factory.mktemp("videos")

    def path_of(name: str) -> str:
        path = folder / name
        if not path.exists() and name in ODD:
            ODD[name](path, write_video)
        elif not path.exists():
            write_video(path, **VIDEOS[name])
        return str(path)

    return path_of


@pytest.fixture(scope="session")
def decode_in_order() -> Callable[[str], np.ndarray]:
    return plain_decode


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
