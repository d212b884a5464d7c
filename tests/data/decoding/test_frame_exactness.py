"""Frame i is picture i of a plain decode from first to last, in every codec and container, by every decoder.

PyAV to the bit; the others, with FFmpegs of other versions, to a few grey levels, and nearest to the right
one. What they refuse PyAV reads, so that nobody sees a difference. Slow are the kinds that are like others.
"""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from odd_videos import ODD

from videonorm.data.decoding import IndexStore, available_decoders, open_video
from videonorm.data.decoding.fallback import FallbackReader
from videonorm.data.decoding.index_store import packet_index
from videonorm.data.decoding.pyav import PyAVReader

COUNT = 40
X264 = "bframes=3:b-adapt=0:scenecut=0"
X265 = "log-level=none:bframes=4:b-adapt=0:scenecut=0"
HEVC = {"codec": "libx265", "preset": "ultrafast"}
VP8 = {"codec": "libvpx", "b_frames": 0, "deadline": "realtime", "cpu-used": "8", "b": "1M"}
VP9 = {"codec": "libvpx-vp9", "b_frames": 0, "cpu-used": "8", "b": "1M", "auto-alt-ref": "1"}
AV1 = {"codec": "libsvtav1", "b_frames": 0, "preset": "12", "crf": "30"}
MPEG4 = {"codec": "mpeg4", "b": "2M", "b_frames": 3}
MPEG2 = {"codec": "mpeg2video", "b": "4M", "b_frames": 3}
UNEVEN = np.cumsum(np.random.default_rng(3).integers(1, 9, COUNT)).tolist()
LATE = list(range(250, 250 + COUNT))

FILES: dict[str, dict[str, Any]] = {
    "pyramid.mp4": {"x264-params": f"{X264}:b-pyramid=normal"},
    "pyramid.mkv": {"x264-params": f"{X264}:b-pyramid=strict"},
    "pyramid.ts": {"x264-params": f"{X264}:b-pyramid=normal"},
    "flat.mp4": {"x264-params": f"{X264}:b-pyramid=none"},
    "flat.flv": {"x264-params": f"{X264}:b-pyramid=none"},
    "flat.avi": {"x264-params": f"{X264}:b-pyramid=none"},
    "open_gop.mp4": {"x264-params": f"{X264}:open-gop=1"},
    "open_gop.mkv": {"x264-params": f"{X264}:open-gop=1"},
    "open_gop.ts": {"x264-params": f"{X264}:open-gop=1"},
    "long_gop.mp4": {"gop": 250, "x264-params": X264},
    "intra.mp4": {"gop": 1, "b_frames": 0},
    "no_b.mp4": {"x264-params": "bframes=0"},
    "slices.mp4": {"x264-params": f"{X264}:slices=3"},
    "fragments.mp4": {"x264-params": X264, "muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "ten_bit.mkv": {"pix_fmt": "yuv420p10le", "x264-params": X264},
    "odd_size.mp4": {"height": 65, "width": 77, "pix_fmt": "yuv444p"},
    "odd_size.mkv": {**MPEG4, "height": 66, "width": 77},
    "late_start.mp4": {"times": LATE, "x264-params": X264},
    "late_start.mkv": {"times": LATE, "x264-params": X264},
    "cut.mp4": {"times": list(range(-7, COUNT - 7)), "x264-params": X264},
    "variable_rate.mp4": {"times": UNEVEN, "x264-params": X264},
    "variable_rate.mkv": {"times": UNEVEN, "x264-params": X264},
    "variable_rate.webm": {**VP9, "times": UNEVEN},
    "left.mp4": {"width": 80, "rotation": 90},
    "half.mp4": {"width": 80, "rotation": 180},
    "mirrored.mp4": {"width": 80, "matrix": (-1, 0, 0, 1), "x264-params": X264},
    "transposed.mkv": {"width": 80, "matrix": (0, 1, 1, 0), "x264-params": f"{X264}:open-gop=1"},
    "right.mp4": {**HEVC, "width": 80, "rotation": 270, "x265-params": X265},
    "interlaced.mp4": {"x264-params": f"{X264}:interlaced=1", "flags": "+ildct"},
    "intra_refresh.mp4": {"x264-params": f"{X264}:intra-refresh=1:keyint=8"},
    "hevc.mp4": {**HEVC, "x265-params": X265},
    "hevc.ts": {**HEVC, "x265-params": X265},
    "hevc_open.mkv": {**HEVC, "x265-params": f"{X265}:open-gop=1:b-pyramid=1"},
    "hevc_layers.mp4": {**HEVC, "x265-params": f"{X265}:temporal-layers=3"},
    "hevc_ten_bit.mp4": {**HEVC, "x265-params": X265, "pix_fmt": "yuv420p10le"},
    "vp8.webm": VP8,
    "vp8.mkv": VP8,
    "vp9.webm": VP9,
    "vp9.mp4": VP9,
    "av1.mp4": AV1,
    "av1.mkv": AV1,
    "av1.webm": AV1,
    "mpeg4.mp4": MPEG4,
    "mpeg4.mkv": MPEG4,
    "mpeg4.avi": MPEG4,
    "mpeg2.ts": MPEG2,
    "mpeg2.mpg": MPEG2,
}
ODD_AND_FAST = {
    *("b.asf", "b.mxf", "by_dts.mp4", "by_dts_hevc.mkv", "by_dts_mpeg2.ts", "by_dts_no_b.mkv"),
    *("fields.mp4", "open_fields.ts", "paired_fields.ts", "by_dts_fields.mkv", "hevc_fields.ts"),
    *("radl.mkv", "cra.ts", "recovery.ts", "mpeg2_open.mkv", "vvc.ts", "vvc.mkv"),
    *(
        "packed.avi",
        "uncoded.avi",
        "mpeg2_closed.mkv",
        "hidden.mkv",
        "hidden_vp8.mkv",
        "wmv2.wmv",
        "mpeg2.mxf",
        "mpeg2_fields.mpg",
        "mpeg2_single_fields.mkv",
    ),
    *("motion_jpeg.avi", "sorenson.flv"),
}
ODD_NAMES = [name if name in ODD_AND_FAST else pytest.param(name, marks=pytest.mark.slow) for name in ODD]
HAVE_DISPOSABLE = (
    "pyramid",
    "flat.mp4",
    "flat.flv",
    "open_gop",
    "long_gop",
    "slices",
    "fragments",
    "ten_bit",
)
DECODERS = [name for name, problem in available_decoders().items() if name != "pyav" and problem is None]


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_video, decode_in_order):
    folder = tmp_path_factory.mktemp("exactness")
    frames: dict[str, np.ndarray] = {}

    def path_of(name: str) -> tuple[str, np.ndarray]:
        path = folder / name
        if not path.exists():
            if name in ODD:
                ODD[name](path, make_video)
            else:
                make_video(path, COUNT, **FILES[name])
            frames[name] = decode_in_order(str(path))
        return str(path), frames[name]

    return path_of


def patterns(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    strided = [list(range(rng.integers(stride), count, stride)) for stride in (1, 2, 3, 8)]
    drawn = [sorted(rng.choice(count, int(rng.integers(1, 9)), replace=False).tolist()) for _ in range(8)]
    return [[0], [count - 1], [0, count - 1], *strided, *drawn]


@pytest.mark.parametrize("name", [*FILES, *ODD_NAMES])
def test_pyav_equals_decoding_in_order(name, made, tmp_path, monkeypatch):
    path, expected = made(name)
    index = packet_index(path)
    assert index.packet_is_disposable.any() or not name.startswith(HAVE_DISPOSABLE)
    store = IndexStore(tmp_path / "packets.sqlite")
    store.put(path, "1", index)
    stored = store.get(path, "1")
    assert stored is not None
    singly = [[number] for number in range(len(expected))]
    for used, indices_read in ((index, singly), (stored, patterns(len(expected), seed=1))):
        monkeypatch.setattr("videonorm.data.decoding.pyav.packet_index", lambda *_, used=used: used)
        with open_video(path) as video:
            assert video.num_frames == len(expected)
            assert (np.diff(video.seconds) > 0).all()
            for indices in indices_read:
                np.testing.assert_array_equal(video.read(indices), expected[indices], err_msg=f"{indices}")


@pytest.mark.filterwarnings("ignore:.* is read by pyav")
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", [*FILES, *ODD_NAMES])
def test_other_decoders_give_the_same_frames(name, decoder, made):
    path, expected = made(name)
    with open_video(path, decoder) as video:
        np.testing.assert_array_equal(video.seconds, packet_index(path).seconds)
        for indices in patterns(len(expected), seed=2):
            frames = video.read(indices)
            assert frames.shape == expected[indices].shape
            for frame, number in zip(frames.astype(int), indices, strict=True):
                distances = np.abs(expected[:, ::4, ::4] - frame[::4, ::4]).mean((1, 2, 3))
                assert distances.argmin() == number
                assert distances[number] < 6  # the largest are of interlaced colour
        scaled = video.read([0, 10], 48)
    with open_video(path) as video:
        assert np.abs(video.read([0, 10], 48).astype(int) - scaled).mean() < 8


@pytest.mark.parametrize("name", ODD_NAMES)
def test_pictures_of_a_plain_decode_are_in_order(name, made, number_of):
    """What the others are compared with."""
    shown = [number_of(frame) for frame in made(name)[1]]
    if not any(kind in name for kind in ("fields", "vvc", "closed")):  # whose pictures are others, or grey
        assert shown == sorted(set(shown)) and len(shown) >= 28


@pytest.mark.filterwarnings("ignore:.* is read by pyav")
@pytest.mark.parametrize("decoder", [name for name in DECODERS if name != "torchcodec_cuda"])
def test_what_a_decoder_is_allowed_is_read_by_it(decoder, made):
    """Each codec in each container, so that the tests above have compared its frames.

    A GPU leaves pictures as small as these to others.
    """
    proved = import_module(f"videonorm.data.decoding.{decoder}").PROVED
    missing = {(container, codec) for container, codecs in proved.items() for codec in codecs}
    for name in FILES:
        path, _ = made(name)
        if packet_index(path).format[:2] not in missing:
            continue
        with open_video(path, decoder) as video:
            video.read([0])
            if isinstance(video, FallbackReader) and not isinstance(video.reader, PyAVReader):
                missing.remove(packet_index(path).format[:2])
    assert not missing
