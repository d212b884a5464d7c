"""The same clips whoever loads them, entered anywhere, in spite of decoders that hang or crash."""

import faulthandler
import os
import signal
import time
import warnings
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import DistributedSampler

from videonorm.data import Entries, Entry, Manifest, RandomClips, UniformClips, VideoDataset, dataset, loader
from videonorm.data.loader import EpochSampler, VideoLoader, decoding_workers
from videonorm.data.workers import Workers
from videonorm.errors import UserError

NAMES = ("b_frames.mp4", "one_gop.mp4", "late_start.mp4", "vp9.webm", "upright.mp4")
COPIES = 3


@pytest.fixture
def manifest(videos, tmp_path) -> Manifest:
    """Fifteen videos of two sizes."""
    entries = []
    for copy in range(COPIES):
        for name in NAMES:
            path = tmp_path / f"{copy}_{name}"
            path.symlink_to(videos(name))
            entries.append(Entry(str(path), len(entries)))
    return Manifest(tmp_path / "manifest.csv", Entries.of(entries), num_classes=len(entries))


def make_dataset(manifest: Manifest, **arguments) -> VideoDataset:
    arguments = {"sampling": RandomClips(3, 2, num_clips=2), "replace_bad": True, "seed": 5} | arguments
    return VideoDataset(manifest, **arguments)


def make_loader(manifest, workers=None, batch_size=4, num_replicas=1, rank=0, **arguments) -> VideoLoader:
    data = make_dataset(manifest, **arguments)
    sampler = EpochSampler(data, num_replicas, rank, seed=5)
    return VideoLoader(data, batch_size, workers, sampler=sampler, drop_last=True)


def epoch(loader, number=0):
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.set_epoch(number)
    return list(loader)


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.frames, b.frames)
        assert (a.index.tolist(), a.label.tolist(), a.sizes, a.bad) == (
            *(b.index.tolist(), b.label.tolist(), b.sizes, b.bad),
        )


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(manifest, num_workers):
    alone = make_loader(manifest, short_side=(40, 56))
    with Workers(num_workers, 60) as workers:
        loader = make_loader(manifest, workers, short_side=(40, 56))
        for number in range(2):
            assert_equal(epoch(loader, number), epoch(alone, number))


def test_order_follows_from_seed_and_epoch(manifest):
    def order(number, seed=5):
        loader = make_loader(manifest)
        loader.sampler.seed = seed
        return [batch.index.tolist() for batch in epoch(loader, number)]

    assert order(0) == order(0) and len(order(0)) == 3
    assert len({str(order(0)), str(order(1)), str(order(0, seed=50))}) == 3


@pytest.mark.parametrize("handed_out", [0, 1, 2])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (0, 3), (3, 0)])
def test_resumes_in_mid_epoch_with_another_number_of_workers(manifest, handed_out, before, after):
    unbroken = make_loader(manifest)
    whole, following = epoch(unbroken, 3), epoch(unbroken, 4)

    def pool(number):
        return Workers(number, 60) if number else None

    first = pool(before)
    broken = make_loader(manifest, first)
    broken.sampler.set_epoch(3)
    batches = iter(broken)
    seen = [next(batches) for _ in range(handed_out)]
    state = broken.state_dict()
    del batches
    if first:
        first.close()

    second = pool(after)
    resumed = make_loader(manifest, second)
    resumed.load_state_dict(state)
    assert len(resumed) == 3  # of the epoch, not of the rest
    assert_equal(seen + epoch(resumed, 3), whole)
    assert_equal(epoch(resumed, 4), following)  # the next one is whole again
    if second:
        second.close()


def test_a_finished_epoch_leaves_nothing_out(manifest):
    loader = make_loader(manifest)
    epoch(loader, 0)
    assert loader.state_dict() == {"batches": 0}


@pytest.mark.parametrize("shuffled", [True, False])
def test_processes_share_the_videos_out(manifest, shuffled):
    seen = []
    for rank in (0, 1):
        data = make_dataset(manifest)
        sampler = (
            EpochSampler(data, 2, rank, seed=0)
            if shuffled
            else DistributedSampler(data, 2, rank, shuffle=False)
        )
        loader = VideoLoader(data, 2, sampler=sampler, drop_last=shuffled)
        seen.append([index for batch in loader for index in batch.index.tolist()])
    if shuffled:
        assert len(seen[0]) == len(seen[1]) == 6 and not set(seen[0]) & set(seen[1])
    else:
        assert set(seen[0]) | set(seen[1]) == set(range(15))


def test_loaders_share_workers_and_may_change_the_length_of_clips(manifest):
    def lengths(workers):
        train = make_loader(manifest, workers)
        val = VideoLoader(make_dataset(manifest, sampling=UniformClips(2, 1), replace_bad=False), 4, workers)
        found = []
        for batch in train:  # validation comes while training batches are being made
            found.append(batch)
            found += list(val)
        train.dataset.sampling = RandomClips(9, 1)
        return found + epoch(train, 1)

    with Workers(2, 60) as workers:
        ours = lengths(workers)
    assert_equal(ours, lengths(None))
    assert {batch.frames.shape[2] for batch in ours} == {2, 3, 9}


def test_batches_of_an_epoch_may_differ(manifest):
    """In size and clips, in order, whoever loads; and the next epoch has others."""

    def plan(number):
        return [(1, RandomClips(2, 1)), (4, RandomClips(5, 1)), *[(3, RandomClips(3, 2))] * number]

    def batches(workers, number, resumed=0):
        data = make_dataset(manifest)
        loader = VideoLoader(data, 4, workers, sampler=EpochSampler(data, 1, 0, seed=5), plan=plan)
        loader.load_state_dict({"batches": resumed})
        found = epoch(loader, number)
        assert len(loader) == 2 + number and loader.state_dict() == {"batches": 0}
        return found

    order = [
        index for batch in epoch(make_loader(manifest, batch_size=1), 2) for index in batch.index.tolist()
    ]
    alone = batches(None, 2)
    assert [batch.frames.shape[0] for batch in alone] == [1, 4, 3, 3]
    assert [batch.frames.shape[2] for batch in alone] == [2, 5, 3, 3]
    assert [index for batch in alone for index in batch.index.tolist()] == order[:11]
    assert_equal(batches(None, 2, resumed=2), alone[2:])
    with Workers(2, 60) as workers:
        assert_equal(batches(workers, 2), alone)


def test_an_epoch_may_be_left_early(manifest):
    with Workers(2, 60) as workers:
        loader = make_loader(manifest, workers)
        for _ in range(3):
            next(iter(loader))
        assert_equal(epoch(loader, 1), epoch(make_loader(manifest), 1))


@pytest.fixture
def treacherous(monkeypatch):
    """Decoding some files crashes, that of others hangs."""
    open_video = dataset.open_video

    def open_or_not(path, *rest):
        if Path(path).name.startswith("1_one_gop"):
            faulthandler.disable()  # pytest's
            os.kill(os.getpid(), signal.SIGSEGV)
        if Path(path).name.startswith("2_late_start"):
            time.sleep(1000)
        return open_video(path, *rest)

    monkeypatch.setattr(dataset, "open_video", open_or_not)


def test_decoders_that_crash_or_hang_are_named_and_replaced(manifest, treacherous):
    with Workers(2, time_limit_seconds=2, start_method="fork") as workers:
        train = make_loader(manifest, workers)
        for number in range(2):  # in the second they are not tried again
            batches = epoch(train, number)
            assert [len(batch) for batch in batches] == [4, 4, 4]
            bad = {
                (Path(video.path).name, video.reason.partition(" (")[0])
                for batch in batches
                for video in batch.bad
            }
            assert bad <= {
                ("1_one_gop.mp4", "crashed the decoder"),
                ("2_late_start.mp4", "took longer than 2 s"),
            }
            assert not {6, 12} & {index for batch in batches for index in batch.index.tolist()}

        data = make_dataset(manifest, sampling=UniformClips(2, 1), replace_bad=False)
        batches = epoch(VideoLoader(data, 4, workers))
        assert sum(len(batch) for batch in batches) == 13
        assert [Path(video.path).name for batch in batches for video in batch.bad] == [
            "1_one_gop.mp4",
            "2_late_start.mp4",
        ]


def test_a_users_mistake_comes_through(tmp_path):
    entries = [Entry(str(tmp_path / f"{n}.mp4"), n) for n in range(4)]
    with Workers(1, 60) as workers:
        loader = make_loader(Manifest(tmp_path / "m.csv", Entries.of(entries), 4), workers, batch_size=2)
        with pytest.raises(UserError, match="must list usable videos, and of 4 none is"):
            list(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_of_bad_videos_alone_has_no_clips(manifest, tmp_path, num_workers):
    entries = [Entry(str(tmp_path / f"{number}.mp4"), number) for number in range(4)]
    entries[2] = manifest.entries[0]
    mixed = Manifest(tmp_path / "m.csv", Entries.of(entries), 4)
    with decoding_workers(num_workers, "auto", 60, torch.device("cpu")) or nullcontext() as workers:
        data = make_dataset(mixed, sampling=UniformClips(2, 1), replace_bad=False)
        empty, other = VideoLoader(data, 2, workers)
    assert (len(empty), empty.frames.shape[0], len(empty.label), len(empty.bad)) == (0, 0, 0, 2)
    assert (len(other), other.label.tolist(), len(other.bad)) == (1, [0], 1)
    assert len(empty.to("cpu")) == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_videos_shorter_than_a_clip_are_counted_once(manifest, videos, make_video, num_workers, tmp_path):
    short = make_video(tmp_path / "short.mp4", count=7)
    entries = [*manifest.entries, Entry(str(short), 15), Entry(videos("vp9.webm"), 16, 1.0, 1.2)]
    manifest = Manifest(manifest.path, Entries.of(entries), 17)
    with Workers(num_workers, 60) if num_workers else nullcontext() as workers:
        for short_video, action in (("loop", "they loop"), ("repeat_last", "their last frame is repeated")):
            data = make_dataset(manifest, sampling=RandomClips(4, 3), short_video=short_video)
            loader = VideoLoader(data, 4, workers)
            with pytest.warns(UserWarning) as said:
                for number in range(2):
                    batches = epoch(loader, number)
            assert [frames for batch in batches for frames in batch.lengths] == [*[40] * 15, 7, 5]
            assert [str(warning.message) for warning in said] == [
                "videos shorter than a clip of 4 frames at frame_stride 3, which spans 10: 2 of 17 read of "
                f"{manifest.path}, the shortest has 5; {action} (short_video)"
            ]
    data = make_dataset(manifest, sampling=RandomClips(2, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(VideoLoader(data, 4))
        list(VideoLoader(make_dataset(manifest, sampling=RandomClips(4, 3), short_video="error"), 4))
        data = make_dataset(manifest, sampling=RandomClips(4, 3))
        list(VideoLoader(data, 4, sampler=DistributedSampler(data, 2, rank=1)))  # the first of them speaks


def test_short_videos_are_said_to_one_who_counts_the_batches(manifest):
    loader = VideoLoader(make_dataset(manifest, sampling=RandomClips(64, 8)), 4)
    with pytest.warns(UserWarning, match=r"which spans 505: 15 of 15 read"):
        assert len(list(islice(loader, len(loader)))) == 4


def test_a_sample_of_videos_tells_of_short_ones(manifest, monkeypatch):
    """Not only at the end of an epoch, which may take hours or never come."""
    monkeypatch.setattr(loader, "_SAMPLE", 6)
    batches = iter(VideoLoader(make_dataset(manifest, sampling=RandomClips(64, 8)), 4))
    next(batches)
    with pytest.warns(UserWarning, match=r"which spans 505: 8 of 8 .*, the shortest has 40; they loop"):
        next(batches)


@pytest.mark.parametrize(
    "num_workers, device, devices_here, expected",
    [
        (None, "cpu", 1, 0),
        (None, "cuda", 1, 8),  # at most
        (None, "cuda", 4, 5),  # of 20 cores
        (3, "cpu", 1, 3),
        (0, "cuda", 1, 0),
    ],
)
def test_the_default_number_of_workers(num_workers, device, devices_here, expected, monkeypatch):
    monkeypatch.setattr(loader, "available_cores", lambda: 20)
    workers = decoding_workers(num_workers, "auto", 60, torch.device(device), devices_here)
    assert (workers.num_workers if workers else 0) == expected


def test_arguments_are_checked(manifest):
    with pytest.raises(UserError, match=r"num_workers \(-1\) must be at least 0"):
        decoding_workers(-1, "auto", 60, torch.device("cpu"))
    with pytest.raises(UserError, match=r"batch_size \(0\) must be at least 1"):
        make_loader(manifest, batch_size=0)
