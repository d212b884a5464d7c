import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from videonorm.data import (
    BadVideoError,
    Manifest,
    RandomClips,
    VideoDataset,
    open_video,
    read_manifest,
)
from videonorm.data.decoding.packed import (
    PackedReader,
    file_of,
    is_packed,
    join_shards,
    pack_video,
    read_about,
    write_shard,
)
from videonorm.errors import UserError

NAMES = ("b_frames.mp4", "variable_rate.mp4", "odd_size.mp4", "upright.mp4")


@pytest.fixture(scope="module")
def shard(videos, tmp_path_factory) -> str:
    """The videos of ``NAMES`` at short side 48."""
    path = tmp_path_factory.mktemp("packed") / "s.safetensors"
    packed = []
    for name in NAMES:
        with open_video(videos(name)) as video:
            packed.append(pack_video(video, 0, video.num_frames, short_side=48, quality=95))
    write_shard(path, packed, short_side=48, about={"quality": 95})
    return str(path)


def read(path, indices, short_side=None):
    with open_video(str(path)) as video:
        return video.read(indices, short_side)


def test_paths():
    assert is_packed("/a/b.safetensors/17") and file_of("/a/b.safetensors/17") == "/a/b.safetensors"
    for path in ("/a/b.mp4", "/a/b.safetensors", "/a/b.safetensors/v.mp4", "b/17", "17", ""):
        assert not is_packed(path) and file_of(path) == path


@pytest.mark.parametrize("name", NAMES)
def test_the_frames_of_the_video_at_the_times_of_the_video(name, shard, videos, number_of):
    path = f"{shard}/{NAMES.index(name)}"
    with open_video(videos(name)) as video, open_video(path, "pyav") as packed:
        assert isinstance(packed, PackedReader)
        np.testing.assert_array_equal(packed.seconds, video.seconds)
        indices = [0, 3, 4, 17, 39]
        frames = packed.read(indices)
        original = video.read(indices, 48)
    assert frames.shape == original.shape
    lying = np.rot90(frames, -1, (1, 2)) if name == "upright.mp4" else frames
    assert [number_of(frame) for frame in lying] == indices
    assert np.abs(frames.astype(float) - original).mean() < 8  # chroma has half the resolution


def test_frames_are_those_of_the_jpeg_files(shard):
    """Any tool that reads safetensors and JPEG finds them, and sees the same."""
    arrays = load_file(shard)
    assert len(arrays["video_start"]) == len(NAMES) + 1
    for number in range(len(NAMES)):
        first, stop = arrays["video_start"][number : number + 2]
        expected = []
        for frame in range(first, stop):
            start, end = arrays["frame_start"][frame : frame + 2]
            expected.append(np.asarray(Image.open(io.BytesIO(arrays["jpeg"][start:end].tobytes()))))
        np.testing.assert_array_equal(read(f"{shard}/{number}", range(stop - first)), np.stack(expected))


def test_any_frames_in_any_video(shard):
    whole = [read(f"{shard}/{number}", range(40)) for number in range(len(NAMES))]
    rng = np.random.default_rng(0)
    for _ in range(20):
        number = int(rng.integers(len(NAMES)))
        indices = sorted(rng.choice(40, 5, replace=False).tolist())
        np.testing.assert_array_equal(read(f"{shard}/{number}", indices), whole[number][indices])
    assert read(f"{shard}/0", []).shape[0] == 0


def test_sizes(shard, videos):
    assert read(f"{shard}/2", [0]).shape == (1, 48, 57, 3)
    assert read(f"{shard}/2", [0], 48).shape == (1, 48, 57, 3)
    assert read(f"{shard}/2", [0, 5], 24).shape == (2, 24, 28, 3)
    with pytest.raises(
        UserError, match=r"short_side \(64\) must be at most that of the packed frames \(48\)"
    ):
        read(f"{shard}/2", [0], 64)


def test_small_pictures_stay_small_and_are_scaled_up_as_others_are(videos, tmp_path):
    path = tmp_path / "s.safetensors"
    with open_video(videos("b_frames.mp4")) as video:
        write_shard(path, [pack_video(video, 0, 3, short_side=100, quality=90)], short_side=100)
    assert read(path / "0", [0]).shape == (1, 64, 64, 3)
    assert read(path / "0", [0], 100).shape == (1, 100, 100, 3)
    with pytest.raises(UserError):
        read(path / "0", [0], 101)


def test_a_stretch_and_every_third_frame(videos, tmp_path, number_of):
    path = tmp_path / "s.safetensors"
    with open_video(videos("variable_rate.mp4")) as video:
        packed = pack_video(video, 10, 20, short_side=48, quality=90, frame_step=3)
        expected = video.seconds[[10, 13, 16, 19]] - video.seconds[10]
    write_shard(path, [packed], short_side=48)
    with open_video(str(path / "0")) as video:
        np.testing.assert_array_equal(video.seconds, expected)
        assert [number_of(frame) for frame in video.read(range(4))] == [10, 13, 16, 19]


def test_in_pieces(videos, monkeypatch, shard):
    """What does not fit into memory at once is the same."""
    monkeypatch.setattr("videonorm.data.decoding.packed._BYTES_AT_A_TIME", 7 * 48 * 48 * 3)
    with open_video(videos("b_frames.mp4")) as video:
        packed = pack_video(video, 0, 40, short_side=48, quality=95)
    arrays = load_file(shard)
    assert b"".join(packed.jpegs) == arrays["jpeg"][: arrays["frame_start"][40]].tobytes()


def test_joined(shard, videos, tmp_path):
    parts = []
    for number, name in enumerate(NAMES):
        parts.append(tmp_path / f"{number}.safetensors")
        with open_video(videos(name)) as video:
            packed = pack_video(video, 0, video.num_frames, short_side=48, quality=95)
        write_shard(parts[-1], [packed], short_side=48)
    join_shards(tmp_path / "all.safetensors", parts, short_side=48, about={"quality": 95})
    assert (tmp_path / "all.safetensors").read_bytes() == Path(shard).read_bytes()
    assert read_about(shard) == {"short_side": 48, "quality": 95}
    join_shards(tmp_path / "none.safetensors", [], short_side=48)
    with pytest.raises(BadVideoError, match="is not in its shard, which has 0 videos"):
        open_video(str(tmp_path / "none.safetensors/0"))


def dataset(manifest: Manifest, epoch: int) -> VideoDataset:
    result = VideoDataset(manifest, RandomClips(4, 3, 2), short_side=32, seed=3, replace_bad=True)
    result.epoch = epoch
    return result


def test_a_dataset_of_them_has_the_clips_of_the_videos(shard, videos, tmp_path):
    originals, packed = tmp_path / "videos.csv", Path(shard).with_name("packed.csv")
    originals.write_text("path,label\n" + "".join(f"{videos(name)},{i}\n" for i, name in enumerate(NAMES)))
    packed.write_text("path,label\n" + "".join(f"s.safetensors/{i},{i}\n" for i in range(len(NAMES))))
    for epoch in range(2):
        pair = (dataset(read_manifest(path), epoch) for path in (originals, packed))
        for theirs, ours in zip(*pair, strict=True):
            assert (ours.label, ours.index, ours.bad) == (theirs.label, theirs.index, [])
            assert ours.frames.shape == theirs.frames.shape
            difference = (ours.frames.float() - theirs.frames.float()).abs().mean((2, 3, 4))
            another = (ours.frames.float() - theirs.frames.flip(1).float()).abs().mean((2, 3, 4))
            assert difference.max() < 15 < 25 < another.min(), (difference, another)


def test_what_cannot_be_used_is_named(shard, tmp_path):
    whole = Path(shard).read_bytes()
    number = 0

    def reason(content: bytes | None, video: int = 1) -> str:
        nonlocal number
        number += 1  # an open shard stays open
        path = tmp_path / f"{number}.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadVideoError) as error:
            read(path / str(video), range(40))
        assert error.value.path == str(path / str(video))
        return error.value.reason

    assert reason(None) == "cannot be found: No such file or directory"
    assert reason(b"") == "is empty (0 bytes)"
    assert reason(whole, 4) == "is not in its shard, which has 4 videos"
    assert reason(whole[:4]) == "is in a damaged shard: it is cut off"
    for length in (100, len(whole) // 2, len(whole) - 1):
        assert reason(whole[:length]) in (
            "is in a damaged shard: it is cut off",
            "is in a damaged shard: its header is too long",
        )
    assert "header" in reason(os.urandom(5000)) and "header" in reason(bytes(5000))
    assert "header is not that of packed frames" in reason(whole.replace(b'"short_side', b'"other_side'))
    assert "header is not that of packed frames" in reason(whole.replace(b'"I64"', b'"F64"', 1))
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(BadVideoError, match="is a directory"):
        open_video(str(tmp_path / "folder.safetensors/0"))


def test_changed_bytes_are_found(shard, tmp_path):
    """A changed bit in a JPEG file mostly decodes without an error, to another picture."""
    arrays = load_file(shard)
    first = arrays["video_start"][1]
    start, end = arrays["frame_start"][first + 5 : first + 7]
    at = Path(shard).read_bytes().index(arrays["jpeg"][start:end].tobytes())
    changed = bytearray(Path(shard).read_bytes())
    changed[at + (end - start) * 3 // 4] ^= 16
    (tmp_path / "s.safetensors").write_bytes(changed)
    path = tmp_path / "s.safetensors/1"
    with pytest.raises(BadVideoError, match=r"frame 5 at .* cannot be decoded: its bytes have changed"):
        read(path, [4, 5])
    np.testing.assert_array_equal(read(path, [4, 6]), read(f"{shard}/1", [4, 6]))


@pytest.mark.parametrize(
    ("name", "position", "value"),
    [
        *[("video_start", 1, value) for value in (-1, 0, 2**62)],
        *[("frame_start", 3, value) for value in (-1, 0, 2**62)],
        *[("frame_start", 40, 2**62), ("frame_start", 0, -5)],
    ],
)
def test_wrong_tables(name, position, value, shard, tmp_path):
    arrays = load_file(shard)
    arrays[name][position] = value
    save_file(arrays, tmp_path / "s.safetensors", {"packed": '{"short_side": 48}'})
    with pytest.raises(BadVideoError, match=r"is in a damaged shard: its table of (videos|frames) is wrong"):
        open_video(str(tmp_path / "s.safetensors/0"))


def test_a_frame_that_is_no_jpeg(tmp_path, videos):
    with open_video(videos("b_frames.mp4")) as video:
        packed = pack_video(video, 0, 3, short_side=48, quality=90)
        small = pack_video(video, 0, 1, short_side=40, quality=90)
    packed.jpegs[1:] = [b"no jpeg", small.jpegs[0]]
    write_shard(tmp_path / "s.safetensors", [packed], short_side=48)
    for frame in (1, 2):
        with pytest.raises(BadVideoError, match=f"is damaged: frame {frame} at .* cannot be decoded"):
            read(tmp_path / "s.safetensors/0", [0, frame])
    cut = packed.jpegs[0][: len(packed.jpegs[0]) // 2]
    write_shard(tmp_path / "t.safetensors", [packed._replace(jpegs=[cut, *packed.jpegs[1:]])], short_side=48)
    with pytest.raises(BadVideoError, match="cannot be decoded"):
        read(tmp_path / "t.safetensors/0", [0])


def test_a_shard_cut_while_it_is_open(shard, tmp_path):
    (tmp_path / "s.safetensors").write_bytes(Path(shard).read_bytes())
    with open_video(str(tmp_path / "s.safetensors/3")) as video:
        os.truncate(tmp_path / "s.safetensors", 5000)
        with pytest.raises(BadVideoError, match="it is cut off"):
            video.read([0])


def test_descriptors_are_bounded(shard, tmp_path):
    from videonorm.data.decoding import packed

    for number in range(packed._OPEN_SHARDS + 20):
        os.link(shard, tmp_path / f"{number}.safetensors")
        read(tmp_path / f"{number}.safetensors/0", [0])
    opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert sum(name.startswith(str(tmp_path)) for name in opened) <= packed._OPEN_SHARDS


def test_read_on_after_a_fork(shard):
    expected = read(f"{shard}/0", [1, 20])
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(read(f"{shard}/0", [1, 20]), expected) for _ in range(50))
        os._exit(0 if same else 1)
    for _ in range(50):
        np.testing.assert_array_equal(read(f"{shard}/0", [1, 20]), expected)
    assert os.waitpid(child, 0)[1] == 0


def test_urls_are_refused():
    with pytest.raises(UserError, match="must be on a local or mounted disk"):
        open_video("https://host/s.safetensors/0")
