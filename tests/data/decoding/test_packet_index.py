"""What cannot be used is refused by the reason, and never crashes or hangs."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from videonorm.data.decoding import BadVideoError, open_video
from videonorm.data.decoding import packet_index as packet_index_module
from videonorm.data.decoding.container import decode_all, open_container
from videonorm.data.decoding.index_store import packet_index


def test_open_gop_is_decoded_from_the_keyframe_before(videos):
    index = packet_index(videos("open_gop.mp4"))
    assert (index.packet_pts[index.keyframe] <= index.pts).all()
    keys = np.flatnonzero(index.packet_is_key)
    last_key = keys[np.searchsorted(keys, index.position, side="right") - 1]
    leading = last_key != index.keyframe
    assert leading.any()  # the file is one with open GOPs
    assert (index.keyframe[leading] < last_key[leading]).all()


@pytest.mark.parametrize(
    "name, counted",
    [
        ("mpeg4.avi", True),
        ("xvid.avi", False),
        ("packed.avi", True),
        ("mpeg2.mpg", True),
        ("transport.ts", False),
        ("b.asf", True),
        ("by_dts.mkv", True),
        ("by_dts_no_b.mkv", False),
        ("by_dts_hevc.mkv", True),
        ("by_dts_hevc_no_b.mp4", False),
    ],
)
def test_frames_are_counted_where_timestamps_are_not_those_of_display(name, counted, videos):
    index = packet_index(videos(name))
    assert index.counted == counted
    np.testing.assert_allclose(index.seconds, np.arange(40) / 25, atol=1e-4)


@pytest.mark.parametrize("name", ["by_dts_fields.mkv", "fields.avi", "by_dts_fields.ts"])
def test_fields_that_are_counted_are_25_frames_a_second_too(name, videos):
    index = packet_index(videos(name))
    assert index.counted
    np.testing.assert_allclose(index.seconds, np.arange(24) / 25, atol=0.02)


def test_timestamps_that_a_full_decode_confirms_are_used(make_video, tmp_path, monkeypatch):
    """MPEG-2 says that pictures may be reordered even where none is: seeking must not be lost for that."""
    decoded = []
    monkeypatch.setattr(packet_index_module, "decode_all", lambda *a: decoded.append(a) or decode_all(*a))
    path = str(make_video(tmp_path / "no_b.mkv", codec="mpeg2video", b="4M", b_frames=0))
    assert not packet_index(path).counted
    assert len(decoded) == 1


def test_two_fields_are_one_frame(videos):
    index = packet_index(videos("fields.ts"))
    assert (len(index.packet_pts), len(index.pts)) == (48, 24)
    assert (index.last == index.position + 1).all() and index.packet_is_second[index.last].all()
    np.testing.assert_allclose(index.seconds, np.arange(24) / 25, atol=1e-4)
    assert index.spoilt_by(1).tolist() == [True] * 8 + [False] * 16  # the second field of the first keyframe


@pytest.mark.parametrize(
    "name, before",
    [
        *(("radl.mkv", 2), ("vvc.ts", 15), ("mpeg2_closed.mkv", 2)),
        *(("cra.mkv", 0), ("recovery.ts", 0), ("mpeg2_open.mkv", 0)),
    ],
)
def test_what_is_shown_before_the_first_keyframe_counts_where_it_can_be_decoded(name, before, videos):
    index = packet_index(videos(name))
    assert (index.pts < index.packet_pts[0]).sum() == before
    assert (index.keyframe[: before + 1] == 0).all()


def element(name: str, content: bytes) -> bytes:
    """Of Matroska."""
    return bytes.fromhex(name) + bytes([0x08, *len(content).to_bytes(4, "big")]) + content


def encrypt_matroska(path: Path) -> None:
    """Say of the only track that it is encrypted."""
    content = path.read_bytes()
    tracks = content.rfind(b"\x16\x54\xae\x6b")  # behind it two bytes of size, six of checksum
    end = tracks + 6 + int.from_bytes(content[tracks + 4 : tracks + 6], "big") - 0x4000
    key = element("47e1", b"\5") + element("47e2", b"a key's name")
    encryption = element("5032", b"\1") + element("5033", b"\1") + element("5035", key)
    track = content[tracks + 21 : end] + element("6d80", element("6240", encryption))
    segment = content.find(b"\x18\x53\x80\x67") + 4
    front = content[:segment] + b"\x01" + b"\xff" * 7 + content[segment + 8 : tracks]  # of unknown size
    path.write_bytes(front + element("1654ae6b", element("ae", track)) + content[end:])


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", ["secret.mp4", "secret.mkv"])
def test_what_is_encrypted_is_refused(name, decoder, make_video, tmp_path):
    scheme = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "00" * 16}
    path = make_video(tmp_path / name, muxer=scheme if name == "secret.mp4" else None)
    if name == "secret.mkv":
        encrypt_matroska(path)
    with pytest.raises(BadVideoError, match="is encrypted"):
        open_video(str(path), decoder)


def cut(path: str, target: Path, fraction: float = 0.6) -> str:
    content = Path(path).read_bytes()
    target.write_bytes(content[: int(len(content) * fraction)])
    return str(target)


@pytest.fixture(scope="module")
def moov_first(tmp_path_factory, make_video) -> str:
    return str(make_video(tmp_path_factory.mktemp("moov") / "first.mp4", muxer={"movflags": "faststart"}))


@pytest.mark.parametrize(
    "name, reason",
    [
        ("b_frames.mp4", "is truncated or was never finished: an MP4 without its moov box"),
        ("fragments.mp4", r"is truncated: (its index lists \d+ frames, it holds|its last frame)"),
        ("vp9.webm", r"is truncated: its header declares 1.60 s, the packets end at"),
        ("ten_bit.mkv", r"is truncated: its header declares 1.60 s, the packets end at"),
        ("mpeg4.avi", r"is truncated: its last frame \(\d+\) is incomplete"),
    ],
)
def test_truncated_file_is_refused_even_for_frames_that_are_there(name, reason, videos, tmp_path):
    with pytest.raises(BadVideoError, match=reason):
        open_video(cut(videos(name), tmp_path / name))


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_truncated_mp4_with_its_index_first(fraction, moov_first, tmp_path):
    path = cut(moov_first, tmp_path / "cut.mp4", fraction)
    with pytest.raises(BadVideoError, match=r"is truncated: its index lists 40 frames, it holds \d+"):
        open_video(path)


def test_late_start_and_edit_lists_are_not_truncation(videos, make_video, tmp_path):
    late = make_video(tmp_path / "late.mkv", times=list(range(250, 290)))
    for path in (str(late), videos("late_start.mp4"), videos("open_gop.mp4")):
        with open_video(path) as video:
            assert video.num_frames == 40


def test_one_frame_is_a_video(make_video, tmp_path, number_of):
    with open_video(str(make_video(tmp_path / "one.mp4", count=1))) as video:
        assert (video.num_frames, video.frame_rate) == (1, 0.0)
        assert number_of(video.read([0])[0]) == 0


def test_what_is_no_file_of_video(tmp_path):
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    fifo = tmp_path / "fifo.mp4"
    os.mkfifo(fifo)
    for name, content in {"empty": b"", "text": b"no video", "noise": os.urandom(5000)}.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    expected = {
        folder: "is a directory",
        fifo: "is not a regular file",
        tmp_path / "missing.mp4": "cannot be found: No such file or directory",
        tmp_path / "empty.mp4": "is empty (0 bytes)",
        tmp_path / "text.mp4": "cannot be opened: Invalid data found when processing input",
        tmp_path / "noise.mp4": "cannot be opened: Invalid data found when processing input",
        sound: "has no video stream",
    }
    for path, reason in expected.items():
        for decoder in ("pyav", "decord"):
            with pytest.raises(BadVideoError) as caught:
                open_video(str(path), decoder)
            assert caught.value.reason == reason, path
            assert str(caught.value) == f"{path} {reason}"


def test_unknown_codec(videos, tmp_path):
    path = tmp_path / "codec.mp4"
    path.write_bytes(Path(videos("b_frames.mp4")).read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(BadVideoError, match="is in a codec that this FFmpeg cannot decode"):
        open_video(str(path))


def test_all_frames_damaged(videos, tmp_path):
    content = bytearray(Path(videos("b_frames.mp4")).read_bytes())
    start = content.find(b"mdat") + 4
    stop = content.find(b"moov") - 4
    content[start:stop] = bytes(stop - start)
    path = tmp_path / "zeros.mp4"
    path.write_bytes(content)
    with pytest.raises(BadVideoError, match="can(not)? be decoded"), open_video(str(path)) as video:
        video.read([0])


def exp_golomb(number: int) -> str:
    digits = f"{number + 1:b}"
    return "0" * (len(digits) - 1) + digits


def h264_of_size(blocks: int) -> bytes:
    """The headers of a picture of that many macroblocks (16 x 16 pixels) squared, and nonsense behind."""
    size = exp_golomb(blocks - 1)
    zero, one, two, seven = (exp_golomb(number) for number in (0, 1, 2, 7))
    units = {
        b"\x67\x42\x00\x3e": zero + zero + two + one + "0" + size + size + "1100",
        b"\x68": zero + zero + "00" + 3 * zero + "000" + 3 * zero + "000",
        b"\x65": zero + seven + zero + "0000" + zero + "00" + zero + "10110101" * 40,
    }
    content = b""
    for head, bits in units.items():
        bits += "1" + "0" * (-(len(bits) + 1) % 8)
        content += b"\0\0\0\1" + head + int(bits, 2).to_bytes(len(bits) // 8, "big")
    return content


def test_absurd_sizes_are_refused(tmp_path):
    path = tmp_path / "large.h264"
    path.write_bytes(h264_of_size(520))
    with pytest.raises(BadVideoError, match="claims pictures of 8320x8320 pixels, more than 67108864 in all"):
        open_video(str(path))


def test_pictures_that_grow_beyond_all_measure_are_damaged(tmp_path):
    path = tmp_path / "growing.h264"
    path.write_bytes(h264_of_size(4) * 40 + h264_of_size(520))
    with open_container(str(path)) as container:
        sizes = {picture.width if picture else 0 for picture in decode_all(str(path), container)}
    assert sizes == {64, 0}


def test_a_decoder_that_takes_no_more_packets_is_started_anew(videos, tmp_path, decode_in_order):
    """As VP9's does when it fails at the first of two pictures in one packet."""
    content = bytearray(Path(videos("vp9.webm")).read_bytes())
    with av.open(videos("vp9.webm")) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size and not p.is_keyframe]
    start, size = max(packets, key=lambda packet: packet[1])  # holds a hidden picture and the one shown
    content[start + 16 : start + size - 80] = b"\xff" * (size - 96)
    path = tmp_path / "damaged.webm"
    path.write_bytes(content)
    with open_container(str(path)) as container:
        pictures = list(decode_all(str(path), container))
    assert None in pictures
    last = pictures[-1]
    assert last is not None
    np.testing.assert_array_equal(last.to_ndarray(format="rgb24"), decode_in_order(videos("vp9.webm"))[-1])
    with open_video(str(path)) as video:
        assert video.read([0, 30, 39]).shape[0] == 3


def test_file_that_changes_or_disappears_is_seen(make_video, tmp_path):
    path = make_video(tmp_path / "video.mp4", count=10)
    with open_video(str(path)) as video:
        assert video.num_frames == 10
    make_video(path, count=6)
    with open_video(str(path)) as video:
        assert video.num_frames == 6
    path.unlink()
    with pytest.raises(BadVideoError, match="cannot be found"):
        open_video(str(path))


@pytest.mark.parametrize("name", ["b_frames.mp4", "ten_bit.mkv", "vp9.webm", "transport.ts", "mpeg4.avi"])
def test_mutated_files_are_read_or_refused(name, videos, tmp_path):
    rng = np.random.default_rng(0)
    original = np.fromfile(videos(name), np.uint8)
    path = tmp_path / name
    outcomes = {"read": 0, "refused": 0}
    for _ in range(12):
        content = original.copy()
        hits = rng.integers(0, len(content), int(10 ** rng.uniform(0, 2.5)))
        content[hits] = rng.integers(0, 256, len(hits))
        content[: int(rng.integers(len(content) // 2, 2 * len(content)))].tofile(path)
        try:
            with open_video(str(path)) as video:
                last = video.num_frames - 1
                assert video.read(sorted({0, last // 2, last}), 32).shape[3] == 3
            outcomes["read"] += 1
        except BadVideoError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 0
