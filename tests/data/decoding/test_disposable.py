"""Packets that nobody refers to and nobody asked for are left out, and no frame changes by it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from videonorm.data.decoding import BadVideoError, Reader, open_video
from videonorm.data.decoding.disposable import DisposablePackets
from videonorm.data.decoding.packet_index import packet_index

COUNT = 40
X264 = "bframes=3:b-adapt=0:scenecut=0"
X265 = "log-level=none:bframes=4:b-adapt=0:scenecut=0"
HEVC = {"codec": "libx265", "preset": "ultrafast"}
VP8 = {"codec": "libvpx", "b_frames": 0, "deadline": "realtime", "cpu-used": "8", "b": "1M"}
VP9 = {"codec": "libvpx-vp9", "b_frames": 0, "cpu-used": "8", "b": "1M", "auto-alt-ref": "1"}
AV1 = {"codec": "libsvtav1", "b_frames": 0, "preset": "12", "crf": "30"}

# name: how the file is made, and whether some of its packets must be found disposable
FILES: dict[str, tuple[dict[str, Any], bool]] = {
    "pyramid.mp4": ({"x264-params": f"{X264}:b-pyramid=normal"}, True),
    "pyramid.mkv": ({"x264-params": f"{X264}:b-pyramid=strict"}, True),
    "pyramid.ts": ({"x264-params": f"{X264}:b-pyramid=normal"}, True),
    "flat.mp4": ({"x264-params": f"{X264}:b-pyramid=none"}, True),
    "flat.flv": ({"x264-params": f"{X264}:b-pyramid=none"}, True),
    "open_gop.mp4": ({"x264-params": f"{X264}:open-gop=1"}, True),
    "open_gop.ts": ({"x264-params": f"{X264}:open-gop=1"}, True),
    "long_gop.mp4": ({"gop": 250, "x264-params": X264}, True),
    "slices.mp4": ({"x264-params": f"{X264}:slices=3"}, True),
    "fragments.mp4": ({"x264-params": X264, "muxer": {"movflags": "frag_keyframe+empty_moov"}}, True),
    "ten_bit.mkv": ({"pix_fmt": "yuv420p10le", "x264-params": X264}, True),
    "late_start.mp4": ({"times": list(range(250, 250 + COUNT)), "x264-params": X264}, True),
    "cut.mp4": ({"times": list(range(-7, COUNT - 7)), "x264-params": X264}, True),
    "interlaced.mp4": ({"x264-params": f"{X264}:interlaced=1", "flags": "+ildct"}, True),
    "intra_refresh.mp4": ({"x264-params": f"{X264}:intra-refresh=1:keyint=8"}, True),
    "no_b.mp4": ({"x264-params": "bframes=0"}, False),
    "hevc.mp4": ({**HEVC, "x265-params": X265}, True),
    "hevc.ts": ({**HEVC, "x265-params": X265}, True),
    "hevc_open.mkv": ({**HEVC, "x265-params": f"{X265}:open-gop=1:b-pyramid=1"}, True),
    "hevc_layers.mp4": ({**HEVC, "x265-params": f"{X265}:temporal-layers=3"}, True),
    "vp8.webm": (VP8, False),
    "vp9.webm": (VP9, False),
    "vp9.mp4": (VP9, False),
    "av1.mp4": (AV1, False),
    "av1.mkv": (AV1, False),
    "mpeg4.mp4": ({"codec": "mpeg4", "b": "2M", "b_frames": 3}, False),
    "mpeg4.mkv": ({"codec": "mpeg4", "b": "2M", "b_frames": 3}, False),
    "mpeg4.avi": ({"codec": "mpeg4", "b": "2M", "b_frames": 3}, False),
    "mpeg2.ts": ({"codec": "mpeg2video", "b": "4M", "b_frames": 3}, False),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_video):
    folder = tmp_path_factory.mktemp("disposable")

    def path_of(name: str) -> str:
        path = folder / name
        if not path.exists():
            make_video(path, COUNT, **FILES[name][0])
        return str(path)

    return path_of


def patterns(count: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    drawn = [sorted(rng.choice(count, int(rng.integers(1, 9)), replace=False).tolist()) for _ in range(16)]
    strided = [list(range(start, count, stride)) for stride in (2, 3, 8) for start in range(stride)]
    return [*([number] for number in range(count)), *strided, *drawn]


@pytest.mark.parametrize("name", FILES)
def test_frames_equal_decoding_in_order(name, made, decode_in_order):
    expected = decode_in_order(made(name))
    assert packet_index(made(name)).packet_is_disposable.any() or not FILES[name][1]
    with open_video(made(name), "pyav") as video:
        assert video.num_frames == len(expected)
        for indices in patterns(len(expected)):
            np.testing.assert_array_equal(video.read(indices), expected[indices], err_msg=f"{indices}")


def change(path: str, target: Path, packet: int, start: int, content: bytes) -> str:
    """Overwrite the bytes from ``start`` in a packet."""
    file = bytearray(Path(path).read_bytes())
    with av.open(path) as container:
        position = [p.pos for p in container.demux(video=0) if p.size][packet] + start
    file[position : position + len(content)] = content
    target.write_bytes(file)
    return str(target)


def size_of(path: str, packet: int) -> int:
    with av.open(path) as container:
        return [p.size for p in container.demux(video=0) if p.size][packet]


@pytest.mark.parametrize("name", ["flat.mp4", "open_gop.mp4", "hevc.mp4"])
def test_damage_is_reported_wherever_it_can_be_seen(name, made, decode_in_order, tmp_path):
    path = made(name)
    expected = decode_in_order(path)
    index = packet_index(path)
    for packet in np.flatnonzero(~index.packet_is_key)[::4].tolist():
        frame = int(np.flatnonzero(index.position == packet)[0])
        spoilt = index.spoilt_by(packet)
        header = 8  # which says whether others refer to it
        zeros = bytes(size_of(path, packet) - header)
        with open_video(change(path, tmp_path / f"{packet}.mp4", packet, header, zeros)) as video:
            for indices in [[frame], *patterns(COUNT)[COUNT:]]:
                # A picture that nobody refers to and nobody asked for reaches no frame.
                can_be_seen = frame in indices or not index.packet_is_disposable[packet]
                try:
                    np.testing.assert_array_equal(video.read(indices), expected[indices])
                    refused = False
                except BadVideoError:
                    refused = True
                assert refused == (can_be_seen and spoilt[indices].any()), (packet, indices)


@pytest.mark.parametrize("name", ["flat.mp4", "open_gop.mp4", "hevc_layers.mp4"])
def test_reference_that_calls_itself_disposable_is_read_as_if_nothing_were_left_out(name, made, tmp_path):
    index = packet_index(made(name))
    header = b"\0\1" if name.startswith("hevc") else b"\1"  # TRAIL_N; nal_ref_idc 0
    for packet in np.flatnonzero(~index.packet_is_key & ~index.packet_is_disposable)[::3].tolist():
        path = change(made(name), tmp_path / f"{packet}.mp4", packet, 4, header)
        with open_video(path) as video:
            outcomes = [outcome(video, indices) for indices in patterns(COUNT)[COUNT:]]
            packet_index(path).packet_is_disposable[:] = False
            for ours, indices in zip(outcomes, patterns(COUNT)[COUNT:], strict=True):
                np.testing.assert_array_equal(ours, outcome(video, indices))


def outcome(video: Reader, indices: list[int]) -> np.ndarray | str:
    try:
        return video.read(indices)
    except BadVideoError as error:
        return error.reason


def of(codec: str, extradata: bytes, *packets: bytes, key: int = 0, **flags: bool) -> list[bool]:
    """What is found disposable among packets, one of which is a keyframe."""
    context = SimpleNamespace(codec=SimpleNamespace(canonical_name=codec), extradata=extradata)
    found = DisposablePackets(SimpleNamespace(codec_context=context))
    for i, content in enumerate(packets):
        packet = Content(content)
        packet.is_keyframe, packet.is_corrupt = i == key, False
        packet.is_disposable = flags.get("is_disposable", False)
        found.add(packet)
    return found.disposable().tolist()


class Content(bytes):
    """The content of a packet, with its flags as attributes."""


SPS = bytes.fromhex("6742c00a f8")  # H.264 baseline: frame_num has 4 bits
AVCC = b"\1\x42\xc0\x0a\xfc\xe1\0\x05" + SPS  # with lengths of 1 byte
IDR, P, B, P2 = (bytes.fromhex(unit) for unit in ("65888000", "41e200", "01a440", "41e400"))


def test_h264_in_both_framings():
    units = [IDR, P, B, P2]
    with_start_codes = [b"\0\0\0\1\x09\xf0\0\0\1" + unit for unit in units]  # behind a delimiter
    with_lengths = [bytes([len(unit)]) + unit for unit in units]
    assert of("h264", b"\0\0\0\1" + SPS, *with_start_codes) == [False, False, True, False]
    assert of("h264", AVCC, *with_lengths) == [False, False, True, False]


@pytest.mark.parametrize(
    "what, extradata, b",
    [
        ("no parameter set", b"", b"\x03" + B),
        ("a length too large", AVCC, b"\x04" + B),
        ("a length too small", AVCC, b"\x02" + B),
        ("a second slice that is a reference", AVCC, b"\x03" + B + b"\x03" + P),
        ("a parameter set with it", AVCC, b"\x03" + B + b"\x02\x68\x80"),
        ("a kind of unit that is not known", AVCC, b"\x03" + B + b"\x02\x74\x80"),
        ("no slice", AVCC, b"\x02\x09\xf0"),
        ("a number that does not follow", AVCC, b"\x03\x01\xa4\x80"),
        ("nothing", AVCC, b""),
    ],
)
def test_what_is_not_certain_counts_as_referred_to(what, extradata, b):
    units = [bytes([len(unit)]) + unit for unit in (IDR, P)]
    assert of("h264", extradata, *units, b) == [False] * 3


def test_hevc_pictures_that_a_higher_layer_may_refer_to():
    idr, lower, highest, higher_reference = (
        b"\0\0\1" + bytes.fromhex(unit) for unit in ("2601af", "0001af", "0002af", "0202af")
    )
    assert of("hevc", b"", idr, lower, lower) == [False, True, True]
    assert of("hevc", b"", idr, lower, highest, higher_reference) == [False, False, True, False]
    assert of("hevc", b"", idr, lower, b"nonsense") == [False, False, False]
    other_view = b"\0\0\1" + bytes.fromhex("0009af")
    assert of("hevc", b"", idr, lower, lower + other_view) == [False, True, False]


def test_other_codecs_as_the_container_marks_them():
    assert of("av1", b"", b"key", b"frame", is_disposable=True) == [False, True]
    assert of("av1", b"", b"key", b"frame") == [False, False]
