"""Leaving out packets that nobody refers to hides no damage; test_frame_exactness.py has the frames."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from videonorm.data.decoding import BadVideoError, Reader, open_video
from videonorm.data.decoding.contents import PacketContents
from videonorm.data.decoding.index_store import packet_index

COUNT = 40
X264 = "bframes=3:b-adapt=0:scenecut=0"
X265 = "log-level=none:bframes=4:b-adapt=0:scenecut=0"
FILES: dict[str, dict[str, Any]] = {
    "flat.mp4": {"x264-params": f"{X264}:b-pyramid=none"},
    "open_gop.mp4": {"x264-params": f"{X264}:open-gop=1"},
    "hevc.mp4": {"codec": "libx265", "preset": "ultrafast", "x265-params": X265},
    "hevc_layers.mp4": {
        "codec": "libx265",
        "preset": "ultrafast",
        "x265-params": f"{X265}:temporal-layers=3",
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_video):
    folder = tmp_path_factory.mktemp("disposable")

    def path_of(name: str) -> str:
        path = folder / name
        if not path.exists():
            make_video(path, COUNT, **FILES[name])
        return str(path)

    return path_of


def patterns(count: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    drawn = [sorted(rng.choice(count, int(rng.integers(1, 9)), replace=False).tolist()) for _ in range(16)]
    strided = [list(range(start, count, stride)) for stride in (2, 3, 8) for start in range(stride)]
    return [*([number] for number in range(count)), *strided, *drawn]


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
    found = PacketContents(SimpleNamespace(codec_context=context))
    for i, content in enumerate(packets):
        packet = Content(content)
        packet.is_keyframe, packet.is_corrupt = i == key, False
        packet.is_disposable = flags.get("is_disposable", False)
        found.add(packet)
    return found.disposable().tolist()


class Content(bytes):
    """The content of a packet, with its flags as attributes."""


SPS = bytes.fromhex("6742c00a f884c8")  # H.264 baseline: frame_num has 4 bits
AVCC = b"\1\x42\xc0\x0a\xfc\xe1\0\x07" + SPS  # with lengths of 1 byte
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
