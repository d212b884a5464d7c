"""Pictures are laid as their file's display matrix says, all of it, by every decoder."""

import itertools
import warnings

import av
import numpy as np
import pytest

from videonorm.data.decoding import available_decoders, open_video
from videonorm.data.decoding.index_store import packet_index
from videonorm.data.decoding.orientation import AS_CODED, Orientation
from videonorm.data.decoding.packet_index import PacketIndex

EIGHT = [
    *((a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)),
    *((0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)),
]
DECODERS = [name for name, problem in available_decoders().items() if problem is None]


def read(path, decoder="pyav", indices=(0, 4, 8), short_side=None):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is read by pyav")
        with open_video(str(path), decoder) as video:
            return video.read(indices, short_side)


def assert_near(frames, expected):
    """x264 encodes the same pictures a little differently each time."""
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean() < 1


@pytest.fixture(scope="module")
def plain(make_video, tmp_path_factory):
    """Nine frames of 64 x 80, a keyframe every five, with no matrix."""
    return make_video(tmp_path_factory.mktemp("plain") / "plain.mp4", 9, width=80, gop=5)


@pytest.mark.parametrize("matrix", EIGHT)
def test_the_eight_are_the_definition(matrix):
    pictures = np.random.default_rng(0).integers(0, 255, (2, 4, 6, 3), dtype=np.uint8)
    a, b, c, d = matrix
    orientation = Orientation.of((a * 2**16, b * 2**16, c * 2**16, d * 2**16))
    shown = orientation.upright(pictures)
    for y, x in np.ndindex(4, 6):
        row, column = b * x + d * y, a * x + c * y  # from the other end where they are negative
        row, column = row - (b < 0 or d < 0), column - (a < 0 or c < 0)
        np.testing.assert_array_equal(shown[:, row, column], pictures[:, y, x])
    turns = [turn for turn in range(4) if np.array_equal(shown, np.rot90(pictures, turn, (1, 2)))]
    assert turns == ([] if orientation.degrees is None else [orientation.degrees // 90])


@pytest.mark.parametrize(
    "matrix, nearest",
    [
        ((0, 0, 0, 0), (1, 0, 0, 1)),
        ((5, 0, 0, -3), (1, 0, 0, -1)),  # a scale counts for nothing
        ((0.87, 0.5, -0.5, 0.87), (1, 0, 0, 1)),  # 30 degrees
        ((0.5, 0.87, -0.87, 0.5), (0, 1, -1, 0)),  # 60
        ((0.71, 0.71, -0.71, 0.71), (1, 0, 0, 1)),  # 45: that which moves less
        ((-1, 0.2, 0, 1), (-1, 0, 0, 1)),  # a slant
    ],
)
def test_other_matrices_go_to_the_nearest(matrix, nearest):
    assert Orientation.of(tuple(round(2**16 * entry) for entry in matrix)) == Orientation.of(nearest)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("matrix", EIGHT)
def test_every_decoder_applies_the_whole_matrix(matrix, suffix, plain, make_video, number_of, tmp_path):
    path = make_video(tmp_path / f"v{suffix}", 9, width=80, gop=5, matrix=matrix)
    expected, small = read(plain), read(plain, short_side=48)
    for decoder in DECODERS:
        shown = Orientation.of(tuple(map(int, matrix))).upright(expected)
        assert_near(read(path, decoder), shown)
        scaled = Orientation.of(tuple(map(int, matrix))).upright(small)
        frames = read(path, decoder, short_side=48)
        assert frames.shape == scaled.shape == ((3, 60, 48, 3) if matrix[1] else (3, 48, 60, 3))
        assert np.abs(frames.astype(int) - scaled).mean() < 8
    with open_video(str(path)) as video:
        assert (video.height, video.width) == ((80, 64) if matrix[1] else (64, 80))


@pytest.mark.parametrize("matrix", [(0.87, 0.5, -0.5, 0.87), (0.5, 0.87, -0.87, 0.5), (-1, 0.4, 0.4, 1)])
def test_every_decoder_lays_an_odd_matrix_alike(matrix, plain, make_video, tmp_path):
    path = make_video(tmp_path / "v.mp4", 9, width=80, gop=5, matrix=matrix)
    shown = Orientation.of(packet_index(str(path)).format.matrix).upright(read(plain))
    for decoder in DECODERS:
        assert_near(read(path, decoder), shown)


def add_message(source, target, codec):
    """Put a message into the first picture: mirrored, then turned by 90 degrees (annex D of H.264, H.265)."""
    header, persistent = (b"\x06", "0100") if codec == "libx264" else (bytes([39 << 1, 1]), "1")
    bits = f"010{0x4000:016b}{persistent}1".ljust(24, "0")
    unit = header + bytes([47, 3]) + int(bits, 2).to_bytes(3, "big") + b"\x80"
    message = len(unit).to_bytes(4, "big") + unit
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        stream = container.streams.video[0]
        to = output.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in container.demux(stream) if p.size):
            new = av.Packet((message if number == 0 else b"") + bytes(packet))
            new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
            new.is_keyframe, new.stream = packet.is_keyframe, to
            output.mux(new)
    return target


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_message_in_the_pictures_lays_the_whole_video(codec, make_video, tmp_path):
    options = {"x265-params": "log-level=none", "preset": "ultrafast"} if codec == "libx265" else {}
    source = make_video(tmp_path / "v.mp4", 9, width=80, gop=5, codec=codec, **options)
    path = add_message(source, tmp_path / "message.mp4", codec)
    shown = np.swapaxes(read(source), 1, 2)
    for decoder in DECODERS:
        np.testing.assert_array_equal(read(path, decoder), shown)
        np.testing.assert_array_equal(read(path, decoder, [8]), shown[2:])  # behind another keyframe
    mirrored = make_video(
        tmp_path / "mirrored.mp4", 9, width=80, gop=5, codec=codec, matrix=(-1, 0, 0, 1), **options
    )
    both = add_message(mirrored, tmp_path / "both.mp4", codec)
    for decoder in DECODERS:  # the container's word goes first
        assert_near(read(both, decoder), read(source)[:, :, ::-1])


def test_a_stored_index_knows_it(plain, make_video, tmp_path):
    assert packet_index(str(plain)).format.matrix == AS_CODED
    path = make_video(tmp_path / "v.mp4", 3, matrix=(0, 1, 1, 0))
    index = packet_index(str(path))
    assert index.format.matrix == (0, 2**16, 2**16, 0)
    assert PacketIndex.from_bytes(index.to_bytes()).format == index.format


@pytest.mark.parametrize("name", ["one_picture.mp4", "mpeg4.avi"])
def test_files_whose_first_picture_comes_out_late_or_whose_frames_are_counted(name, make_video, tmp_path):
    codec = {"codec": "mpeg4", "b": "2M"} if name.endswith("avi") else {}
    path = str(make_video(tmp_path / name, 1 if name.startswith("one") else 5, **codec))
    assert packet_index(path).format.matrix == AS_CODED
    assert read(path, indices=[0]).shape == (1, 64, 64, 3)
