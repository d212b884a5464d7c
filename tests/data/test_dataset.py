import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from videonorm.data import Entries, Entry, Manifest, RandomClips, UniformClips, VideoDataset, collate
from videonorm.errors import UserError


def manifest_of(*paths: str, **seconds: float) -> Manifest:
    entries = [Entry(path, label, **seconds) for label, path in enumerate(paths)]
    return Manifest(Path("manifest.csv"), Entries.of(entries), num_classes=len(paths))


@pytest.fixture(scope="module")
def good(videos) -> list[str]:
    return [videos(name) for name in ("b_frames.mp4", "one_gop.mp4", "late_start.mp4", "vp9.webm")]


@pytest.fixture
def truncated(videos, tmp_path) -> str:
    content = Path(videos("b_frames.mp4")).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    return str(tmp_path / "cut.mp4")


@pytest.fixture
def numbers(number_of):
    """The numbers that the frames of a sample show: V lists of T."""
    return lambda sample: [[number_of(frame) for frame in clip.numpy()] for clip in sample.frames]


def test_uniform_clips_show_the_frames_asked_for(good, numbers):
    dataset = VideoDataset(manifest_of(*good), UniformClips(4, 3, num_clips=3), replace_bad=False)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample.frames.shape == (3, 4, 64, 64, 3)
        assert sample.frames.dtype == torch.uint8
        assert numbers(sample) == [[0, 3, 6, 9], [15, 18, 21, 24], [30, 33, 36, 39]]
        assert (sample.label, sample.index, sample.bad) == (index, index, [])


def test_random_clips_follow_from_seed_epoch_and_index(good, numbers):
    def clips(seed: int, epoch: int) -> list[list[list[int]]]:
        dataset = VideoDataset(manifest_of(*good), RandomClips(4, 2, 2), seed=seed, replace_bad=True)
        dataset.epoch = epoch
        return [numbers(dataset[index]) for index in range(len(dataset))]

    first = clips(seed=0, epoch=0)
    assert first == clips(seed=0, epoch=0)
    assert first != clips(seed=0, epoch=1)
    assert first != clips(seed=1, epoch=0)
    assert len({str(clip) for video in first for clip in video}) > 2
    assert all(clip == list(range(clip[0], clip[0] + 7, 2)) for video in first for clip in video)


def test_workers_change_nothing_and_see_the_epoch(good, truncated):
    dataset = VideoDataset(
        manifest_of(*good, truncated), RandomClips(4, 2), short_side=(40, 56), replace_bad=True
    )
    workers = DataLoader(dataset, 2, num_workers=2, collate_fn=collate)
    alone = DataLoader(dataset, 2, collate_fn=collate)
    seen = []
    for epoch in range(2):
        dataset.epoch = epoch
        for ours, theirs in zip(alone, workers, strict=True):
            assert torch.equal(ours.frames, theirs.frames)
            assert (ours.sizes, ours.bad) == (theirs.sizes, theirs.bad)
            assert ours.label.tolist() == theirs.label.tolist()
            seen.append(ours.frames)
    assert not torch.equal(seen[0], seen[3])


def test_short_video_policies(make_video, tmp_path, numbers):
    path = str(make_video(tmp_path / "short.mp4", count=5))

    def sample(short_video: str):
        sampling = UniformClips(4, 2)
        return VideoDataset(manifest_of(path), sampling, replace_bad=False, short_video=short_video)[0]

    assert numbers(sample("loop")) == [[0, 2, 4, 1]]
    assert numbers(sample("repeat_last")) == [[0, 2, 4, 4]]
    assert sample("error").frames is None
    assert sample("error").bad == [(path, "is too short: 4 frames at frame_stride 2 do not fit into its 5")]


def test_stretch_of_a_video(videos, numbers):
    def sample(start: float | None, end: float | None):
        manifest = manifest_of(videos("late_start.mp4"), start_seconds=start, end_seconds=end)
        return VideoDataset(manifest, UniformClips(3, 1, num_clips=2), replace_bad=False)[0]

    assert numbers(sample(0.4, 0.8)) == [[10, 11, 12], [17, 18, 19]]
    assert numbers(sample(1.4, None)) == [[35, 36, 37], [37, 38, 39]]
    assert numbers(sample(None, 0.08)) == [[0, 1, 0], [0, 1, 0]]
    assert sample(5.0, 6.0).bad[0].reason == (
        "has no frame between start_seconds (5.0) and end_seconds (6.0)"
    )


def test_bad_video_is_replaced_in_training_only(good, truncated):
    manifest = manifest_of(truncated, *good)
    replaced = VideoDataset(manifest, RandomClips(4, 2), replace_bad=True)
    taken = set()
    for epoch in range(8):
        replaced.epoch = epoch
        sample = replaced[0]
        assert sample.label == sample.index != 0
        assert set(sample.bad) == {
            (truncated, "is truncated or was never finished: an MP4 without its moov box")
        }
        taken.add(sample.index)
    assert len(taken) > 1

    reported = VideoDataset(manifest, UniformClips(4, 2), replace_bad=False)[0]
    assert (reported.frames, reported.label, reported.index) == (None, 0, 0)
    assert [video.path for video in reported.bad] == [truncated]


def test_only_bad_videos_are_an_error(truncated):
    dataset = VideoDataset(manifest_of(truncated), RandomClips(4, 2), replace_bad=True)
    with pytest.raises(
        UserError, match=r"manifest \(manifest.csv\) must list usable videos, and of 1 none is: "
    ):
        dataset[0]


def test_each_bad_video_is_tried_and_named_once(truncated, good):
    dataset = VideoDataset(manifest_of(truncated), RandomClips(4, 2), replace_bad=True)
    with pytest.raises(UserError) as caught:
        dataset[0]
    assert str(caught.value).count("cut.mp4") == 1
    few = VideoDataset(manifest_of(*[truncated] * 9, good[0]), RandomClips(4, 2), replace_bad=True)
    assert {few[index].label for index in range(10)} == {9}  # one good video is found among ten
    stretches = [Entry(truncated, 0, float(number)) for number in range(12)]
    many = Manifest(Path("m.csv"), Entries.of(stretches), num_classes=1)
    with pytest.raises(UserError, match=r"and of 10 none is: .*cut.mp4 is truncated[^;]*$"):
        VideoDataset(many, RandomClips(4, 2), replace_bad=True)[3]


def test_video_that_disappears_between_epochs(make_video, tmp_path):
    path = make_video(tmp_path / "v.mp4", count=8)
    dataset = VideoDataset(manifest_of(str(path)), UniformClips(4, 2), replace_bad=False)
    assert dataset[0].frames is not None
    path.unlink()
    assert dataset[0].bad == [(str(path), "cannot be found: No such file or directory")]


def test_cache_gives_the_same_samples_without_the_file(make_video, tmp_path):
    paths = [make_video(tmp_path / name) for name in ("kept.mp4", "no_room.mp4")]
    manifest = manifest_of(*map(str, paths))
    sampling = RandomClips(4, 3)
    room_for_one = 40 * 32 * 32 * 3 / 2**20
    plain = VideoDataset(manifest, sampling, short_side=32, replace_bad=False)
    cached = VideoDataset(manifest, sampling, short_side=32, replace_bad=False, cache_mib=room_for_one)
    expected = []
    for epoch in range(3):
        plain.epoch = epoch
        expected.append(plain[0].frames)
    for epoch in range(3):
        cached.epoch = epoch
        assert torch.equal(cached[0].frames, expected[epoch])
        assert (cached[1].frames is None) == (epoch > 0)
        for path in paths:
            path.unlink(missing_ok=True)


def test_damaged_video_is_used_where_it_is_whole_with_a_cache_too(videos, tmp_path):
    content = bytearray(Path(videos("one_gop.mp4")).read_bytes())
    end = content.find(b"moov") - 4
    content[end - 40 : end] = bytes(40)  # the last packets
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    start = {"end_seconds": 0.4}
    for cache_mib in (0, 1):
        dataset = VideoDataset(
            manifest_of(str(path), **start), UniformClips(4, 2), replace_bad=False, cache_mib=cache_mib
        )
        assert dataset[0].frames is not None
        whole = VideoDataset(
            manifest_of(str(path)), UniformClips(40, 1), replace_bad=False, cache_mib=cache_mib
        )
        assert "is damaged" in whole[0].bad[0].reason


def test_collate_pads_and_leaves_out_what_is_bad(videos, truncated):
    paths = [videos("b_frames.mp4"), truncated, videos("upright.mp4")]
    dataset = VideoDataset(manifest_of(*paths), UniformClips(4, 2, num_clips=2), replace_bad=False)
    samples = [dataset[index] for index in range(3)]
    batch = collate(samples)
    assert batch.frames.shape == (2, 2, 4, 80, 64, 3)
    assert batch.sizes == [(64, 64), (80, 64)]
    assert (batch.label.tolist(), batch.index.tolist(), len(batch)) == ([0, 2], [0, 2], 2)
    assert [video.path for video in batch.bad] == [truncated]
    assert torch.equal(batch.frames[0, :, :, :64], samples[0].frames)
    assert not batch.frames[0, :, :, 64:].any()
    assert torch.equal(batch.frames[1], samples[2].frames)

    empty = collate(samples[1:2])
    assert (len(empty), empty.label.tolist(), len(empty.bad)) == (0, [], 1)


def test_batch_moves_as_a_whole(videos):
    dataset = VideoDataset(manifest_of(videos("b_frames.mp4")), UniformClips(4, 2), replace_bad=False)
    batch = collate([dataset[0]])
    moved = batch.to("meta")
    assert {moved.frames.device.type, moved.label.device.type, moved.index.device.type} == {"meta"}
    assert moved.sizes == batch.sizes


def test_dataset_can_be_sent_to_a_spawned_worker(good, numbers):
    dataset = VideoDataset(manifest_of(*good), UniformClips(2, 1), replace_bad=False)
    dataset[0]
    assert numbers(pickle.loads(pickle.dumps(dataset))[1]) == [[19, 20]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"decoder": "opencv"}, r"decoder \(opencv\) must be"),
        ({"short_video": "pad"}, r"short_video \(pad\) must be loop, repeat_last or error"),
        ({"short_side": 0}, r"short_side \(0\) must be at least 1 pixel"),
        (
            {"short_side": (64, 32)},
            r"short_side \(\(64, 32\)\) must be at least 1 pixel, a pair from low to high",
        ),
        ({"short_side": (32, 64), "cache_mib": 5}, r"cache_mib \(5\) must be 0 where short_side is drawn"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        VideoDataset(manifest_of("a.mp4"), UniformClips(2, 1), replace_bad=False, **arguments)
